#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "draft_policy.h"
#include "engine/engine_config.h"
#include "engine/kv_copy.h"
#include "engine/step_plan.h"
#include "prefix_cache.h"
#include "scheduler.h"
#include "sequence.h"
#include "step_pacer.h"

namespace longshelf::engine {

// A plan and what its results mean to the leader. Sequences are running ones, and stay so until the step is committed.
struct StepWork {
  struct Row {
    Sequence* sequence;
    int64_t n_end;  // n_past after the step, if no guess holds
    // Of the guesses, when there are any.
    DraftSource source = DraftSource::kLookup;
    uint32_t n_drafts = 0;
  };
  struct NewCheckpoint {
    Sequence* sequence;
    int64_t n_tokens;
    PrefixKey key;
    KvCopyPtr state;
    KvCopyPtr tail;                      // null: none
    bool is_periodic = false;            // due for nothing but the interval
    std::optional<PrefixKey> continues;  // CacheChain::continues
  };
  struct NewBlock {
    Sequence* sequence;
    int64_t number;  // of the sequence's blocks
    PrefixKey key;
    KvCopyPtr copy;
  };
  struct Imported {
    Sequence* sequence;
    std::shared_ptr<const Checkpoint> checkpoint;
  };

  StepPlan plan;
  std::vector<Row> rows;  // as plan.rows
  int64_t n_tokens = 0;   // of the rows
  double cost = 0.0;      // of the rows
  bool has_prefill = false;
  double chance_wanted = 0.0;  // see DraftPolicy
  std::vector<NewCheckpoint> checkpoints;
  std::vector<NewBlock> blocks;
  std::vector<Sequence*> restoring;  // blocks from their feeds are in this plan
  std::vector<Imported> imported;    // their state is in this plan
  bool has_ended_restore = false;

  bool empty() const {
    return plan.rows.empty() && plan.open_slots.empty() && plan.import_blocks.empty() && plan.import_states.empty() &&
           plan.export_blocks.empty() && plan.export_states.empty() && plan.drop_copies.empty();
  }
};

// Fills a step.
//
// Every sequence with one token to compute gets its row (decode). Prefill gets what is left of the step's budgets, of
// tokens and of cost (step_pacer.h), and at least a quarter of them however many decode. Of this the sequence that was
// admitted first may take half; the rest goes to the others, the least served flow first and in it the fewest tokens
// left first, and what they leave over goes back to the first. So short prompts and other tenants pass a long one at
// once, and the long one always moves on by half.
//
// A chunk ends where a checkpoint is due: at every multiple of checkpoint_interval_tokens, at the last block boundary
// before the end of what was given, at the end of the prompt and of the committed tokens, and where a prefix that
// others share ends. A chunk whose rows score the prompt's tokens scores with all of them. Chunking never changes bits.
//
// What feeds bring is taken as it comes, at most kImportBytesPerStep in a step, each feed its share.
class StepBuilder {
 public:
  static constexpr int64_t kImportBytesPerStep = int64_t{16} << 20;

  StepBuilder(const EngineConfig& config, const GroupShape& shape, Scheduler& scheduler, PrefixCache& cache,
              KvCopyLedger& copies)
      : config_(config),
        shape_(shape),
        row_cost_{shape.position_cost},
        n_draft_max_(shape.n_draft_max),
        n_draft_of_model_(config.draft_model ? shape.n_draft : 0),
        scheduler_(scheduler),
        cache_(cache),
        copies_(copies) {}

  // Imports and rows of the running sequences, checkpoints of the leaving ones. `pacer` says what the step may cost,
  // `drafts` what may be guessed.
  void Fill(StepWork& work, const StepPacer& pacer, const DraftPolicy& drafts);
  // Whether a step must copy out where this sequence stands before it may go.
  bool LeavesCheckpoint(Sequence& sequence) const;

 private:
  // What prefill may still take of a step.
  struct Budget {
    int64_t n_tokens;
    double cost;
  };
  bool TakesCheckpoints() const { return cache_.enabled() || config_.export_cache_objects; }
  void AddImports(StepWork& work);
  void TakeFromFeed(Sequence& sequence, int64_t n_blocks_max, StepWork& work);
  void EndRestore(Sequence& sequence, PrefixFeed::End end, StepWork& work);
  void ImportState(Sequence& sequence, StepWork& work);
  // The number of `copy` on `shard`, which it is moved to when it is elsewhere.
  uint64_t BringTo(uint16_t shard, const KvCopy& copy, StepWork& work);
  // The copy that a block of a sequence is exported to.
  KvCopyPtr ExportBlock(const Sequence& sequence, int64_t number, int64_t n_tokens_in_block, const TokenStamp& stamp,
                        StepWork& work);
  // Why what a feed brought is not taken; empty when it is.
  std::string_view RefusalOfBlock(const Sequence& sequence, const KvCopy& copy) const;
  std::string_view RefusalOfEnd(const Sequence& sequence, const PrefixFeed::End& end) const;
  void AddDecodeRows(StepWork& work, const DraftPolicy& drafts);
  // Guesses what follows, for AddRow.
  struct Guess {
    DraftSource source = DraftSource::kLookup;
    std::vector<uint32_t> tokens;
  };
  Guess GuessNext(Sequence& sequence, int64_t n_max, double chance_wanted) const;
  // Guessed tokens that a decode row may carry.
  int64_t DraftMax(const Sequence& sequence) const;
  // How many time budgets the step may last: more when nobody else waits for its end.
  double BudgetsOfStep() const;
  void AddPrefillRows(StepWork& work, Budget budget);
  void AddRow(Sequence& sequence, int64_t n_tokens, const Guess& guess, StepWork& work);
  enum class Due : uint8_t { kNo, kPeriodic, kGiven };
  void AddCheckpoint(Sequence& sequence, int64_t n_tokens, Due due, StepWork& work);
  void AddBlockExports(Sequence& sequence, int64_t n_end, StepWork& work);
  // Tokens up to the next place where a chunk has to end.
  int64_t ChunkMax(const Sequence& sequence) const;
  Due CheckpointDue(const Sequence& sequence, int64_t n_tokens) const;

  static constexpr double kAloneBudgets = 4.0;

  const EngineConfig config_;
  const GroupShape shape_;
  const RowCost row_cost_;
  const int64_t n_draft_max_;
  const int64_t n_draft_of_model_;
  Scheduler& scheduler_;
  PrefixCache& cache_;
  KvCopyLedger& copies_;
};

}  // namespace longshelf::engine
