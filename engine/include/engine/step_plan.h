#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sampling.h"
#include "engine/token_stamp.h"

namespace longshelf::engine {

// A sequence's place on its home shard.
struct SlotId {
  uint16_t shard = 0;
  uint16_t slot = 0;
  bool operator==(const SlotId&) const = default;
};

// What every shard is told before a step. Decided by the leader only; a pure value, serialised to a fixed little-endian
// form. KV never rides in it: bytes go from and to a shard's own copies (kv_copies.h), which are named by number.
struct StepPlan {
  enum class Opcode : uint8_t { kStep, kShutdown };

  struct OpenSlot {  // a fresh sequence state and an empty block table; the sampler has counted these output tokens
    SlotId slot;
    SamplingParams sampling;
    std::vector<uint32_t> prior_output;
    std::string output_spec = {};  // SequenceRequest's; "": any output
    std::vector<uint32_t> end_token_ids = {};
    bool operator==(const OpenSlot&) const = default;
  };
  // Entry `index` of a slot's block table: appended, or in place of what was there. Only changes are told, so the cost
  // of a step does not grow with what its sequences have behind them.
  struct SetBlock {
    SlotId slot;
    uint32_t index = 0;
    uint32_t block = 0;
    bool operator==(const SetBlock&) const = default;
  };
  // A copy of another shard, under a number of its own: the only KV that shards send each other, one to one.
  struct MoveCopy {
    uint16_t from = 0;
    uint64_t copy = 0;
    uint16_t to = 0;
    uint64_t new_copy = 0;
    uint64_t n_bytes = 0;
    bool operator==(const MoveCopy&) const = default;
  };
  struct ImportBlock {
    uint16_t shard = 0;
    uint32_t block = 0;
    uint64_t copy = 0;
    bool operator==(const ImportBlock&) const = default;
  };
  struct ImportState {
    SlotId slot;
    int64_t n_tokens = 0;
    uint64_t copy = 0;
    bool operator==(const ImportState&) const = default;
  };
  struct Row {  // one sequence's chunk; the slot's block table covers n_past + tokens.size()
    SlotId slot;
    int64_t n_past = 0;
    std::vector<uint32_t> tokens;
    // Sample the token after tokens; when the last n_drafts of tokens are guesses, the token after the first one that
    // is not one, then on as long as the guess is what was sampled.
    bool sample = false;
    bool return_logits = false;
    uint32_t n_drafts = 0;      // at most GroupShape::n_draft_max; then tokens are one more, and sample is set
    bool wants_draft = false;   // the model shall guess on: n_draft of this plan
    int64_t replay_begin = -1;  // SequenceChunk::replay_begin; then nothing is sampled
    // What follows each of tokens (but the last, when the row samples), to be scored; empty: nothing is.
    std::vector<uint32_t> targets = {};
    bool operator==(const Row&) const = default;
  };
  struct ExportBlock {
    uint16_t shard = 0;
    uint32_t block = 0;
    int64_t n_tokens_in_block = 0;
    uint64_t copy = 0;     // the number that it gets
    EncodedStamp stamp{};  // which ends it
    bool operator==(const ExportBlock&) const = default;
  };
  struct ExportState {  // nothing is copied of a sequence that has failed
    SlotId slot;
    int64_t n_tokens = 0;
    uint64_t copy = 0;
    EncodedStamp stamp{};
    bool operator==(const ExportState&) const = default;
  };
  struct DropCopy {  // nobody needs it after this step; it need not be there
    uint16_t shard = 0;
    uint64_t copy = 0;
    bool operator==(const DropCopy&) const = default;
  };
  Opcode opcode = Opcode::kStep;
  uint64_t seq = 0;  // counts up by one
  // Executed in this order.
  std::vector<OpenSlot> open_slots;
  std::vector<SetBlock> set_blocks;
  std::vector<MoveCopy> move_copies;
  std::vector<ImportBlock> import_blocks;
  std::vector<ImportState> import_states;
  std::vector<Row> rows;
  std::vector<ExportBlock> export_blocks;
  std::vector<ExportState> export_states;
  std::vector<DropCopy> drop_copies;
  uint32_t n_draft = 0;  // tokens that the model guesses for each row that wants it, at most GroupShape::n_draft

  // Fixed little-endian form ending in an xxh3-64 of everything before it.
  std::string Serialize() const;
  // Bounded: nothing is allocated from a count before it was compared with the bytes that are left. DATA_LOSS: the
  // checksum differs. INVALID_ARGUMENT: not a plan of this version; names the field.
  static absl::StatusOr<StepPlan> Parse(std::string_view bytes);
  bool operator==(const StepPlan&) const = default;
};

// What came of one plan row.
struct RowResult {
  std::vector<SampledToken> sampled;  // none when the row does not sample; else one and one per guess that held
  // What the model guesses next, when the row wants it, and the log odds of each if those before it hold.
  std::vector<uint32_t> draft;
  std::vector<float> draft_confidence;
  std::vector<ScoredToken> scored = {};  // one per target of the row
  bool operator==(const RowResult&) const = default;
};

// One sequence went wrong (not a number in its logits, a state of the wrong size); the others are not touched. Its
// row result is empty and its state is not exported.
struct SlotFailure {
  SlotId slot;
  absl::Status status;
  bool operator==(const SlotFailure&) const = default;
};

// One entry per plan row, in plan order. The result of one shard holds only what lives on that shard, in plan order
// too; MergeResults() puts them together.
struct StepResult {
  std::vector<RowResult> rows;
  std::vector<SlotFailure> failures;

  // As StepPlan's.
  std::string Serialize() const;
  static absl::StatusOr<StepResult> Parse(std::string_view bytes);
  bool operator==(const StepResult&) const = default;
};

// The whole step's result from one result per shard (index = shard). INTERNAL: the counts do not fit the plan.
absl::StatusOr<StepResult> MergeResults(const StepPlan& plan, std::vector<StepResult> per_shard);

// What the leader knows of a group before it plans anything.
struct GroupShape {
  int n_shards = 1;
  uint32_t n_slots_per_shard = 0;
  uint32_t n_blocks_per_shard = 0;
  size_t block_bytes = 0;
  // KvLayout::StateExportBytes: what a copied state takes, beside its stamp.
  std::function<size_t(int64_t n_tokens)> state_export_bytes;
  // What a position behind a token adds to its cost, in tokens that have none.
  double position_cost = 0.0;
  // Tokens after which a replayed state is right; 0: states cannot be replayed.
  int64_t replay_tokens = 0;
  // Guessed tokens that a row may carry, and that the model's own draft module guesses at a time (0: it has none).
  int64_t n_draft_max = 0;
  int64_t n_draft = 0;
};

// Runs plans: in this process (R = 1) or over a shard group. Called by the leader's engine thread only.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual GroupShape shape() const = 0;
  // A kStep without rows only moves bytes (imports, exports, copies): no shard runs the model for it. kShutdown carries
  // nothing and has an empty result. UNAVAILABLE: a shard is gone; the group must end.
  virtual absl::StatusOr<StepResult> Run(const StepPlan& plan) = 0;
};

}  // namespace longshelf::engine
