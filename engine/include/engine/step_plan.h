#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::engine {

struct SamplingParams {
  double temperature = 1.0;       // 0 = greedy
  double top_p = 1.0;
  uint32_t top_k = 0;             // 0 = off
  double min_p = 0.0;
  uint64_t seed = 0;
  double presence_penalty = 0.0;  // over output tokens
  double frequency_penalty = 0.0;
  bool logprobs = false;
  uint32_t n_top_logprobs = 0;
};

// A sequence's place on its home shard.
struct SlotId {
  uint16_t shard = 0;
  uint16_t slot = 0;
  bool operator==(const SlotId&) const = default;
};

// What every shard is told before a step (expert-parallel.md section 2.1). Decided by the leader only; a pure value,
// serialised to a fixed little-endian form.
struct StepPlan {
  enum class Opcode : uint8_t { kStep, kIdle, kShutdown };

  struct OpenSlot {               // a fresh sequence state; sampler starts with these output tokens counted
    SlotId slot;
    SamplingParams sampling;
    std::vector<uint32_t> prior_output;
  };
  struct ImportBlock { uint16_t shard = 0; uint32_t block = 0; std::vector<std::byte> bytes; };
  struct ImportState { SlotId slot; int64_t n_tokens = 0; std::vector<std::byte> bytes; };
  struct Row {                    // one sequence's chunk
    SlotId slot;
    int64_t n_past = 0;
    std::vector<uint32_t> tokens;
    std::vector<uint32_t> blocks; // home shard's block ids, covering n_past + tokens.size()
    bool sample = false;          // sample from the last row's logits
    bool return_logits = false;
  };
  struct ExportBlock { uint16_t shard = 0; uint32_t block = 0; int64_t n_tokens_in_block = 0; };
  struct ExportState { SlotId slot; int64_t n_tokens = 0; };
  struct CopyBlock { uint16_t shard = 0; uint32_t from = 0; uint32_t to = 0; };

  Opcode opcode = Opcode::kStep;
  uint64_t generation = 0;
  uint64_t seq = 0;
  // Executed in this order.
  std::vector<OpenSlot> open_slots;
  std::vector<ImportBlock> import_blocks;
  std::vector<CopyBlock> copy_blocks;
  std::vector<ImportState> import_states;
  std::vector<Row> rows;
  std::vector<ExportBlock> export_blocks;
  std::vector<ExportState> export_states;

  std::string Serialize() const;  // ends in a CRC
  static absl::StatusOr<StepPlan> Parse(std::string_view bytes);
};

struct TokenLogprob {
  uint32_t token = 0;
  float logprob = 0.0F;
};

struct SampledToken {
  uint32_t token = 0;
  float logprob = 0.0F;                // of the model's distribution before temperature; 0 unless asked for
  std::vector<TokenLogprob> top;
  std::vector<float> logits;           // [vocab], only with return_logits
};

// One entry per plan row / export, in plan order (rows that did not sample hold a default SampledToken).
struct StepResult {
  std::vector<SampledToken> sampled;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::vector<std::byte>> states;

  std::string Serialize() const;
  static absl::StatusOr<StepResult> Parse(std::string_view bytes);
};

// What the leader knows of a group before it plans anything.
struct GroupShape {
  int n_shards = 1;
  uint32_t n_slots_per_shard = 0;
  uint32_t n_blocks_per_shard = 0;
  size_t block_bytes = 0;
};

// Runs plans: in this process (R = 1) or over a shard group. Called by the leader's engine thread only.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual GroupShape shape() const = 0;
  // UNAVAILABLE: a shard is gone; the group must end.
  virtual absl::StatusOr<StepResult> Run(const StepPlan& plan) = 0;
};

}  // namespace longshelf::engine
