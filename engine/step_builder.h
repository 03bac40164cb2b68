#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine_config.h"
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
    int64_t n_end;  // n_past after the step
  };
  struct NewCheckpoint {
    Sequence* sequence;
    int64_t n_tokens;
    PrefixKey key;
    size_t state;                // index into StepResult::states
    std::optional<size_t> tail;  // index into StepResult::blocks
  };
  struct NewBlock {
    Sequence* sequence;
    int64_t number;  // of the sequence's blocks
    PrefixKey key;
    size_t block;  // index into StepResult::blocks
  };
  struct Imported {
    Sequence* sequence;
    std::shared_ptr<const Checkpoint> checkpoint;
  };

  StepPlan plan;
  std::vector<Row> rows;  // as plan.rows
  double cost = 0.0;      // of the rows
  bool has_prefill = false;
  std::vector<NewCheckpoint> checkpoints;
  std::vector<NewBlock> blocks;
  std::vector<Imported> imported;  // their last import is in this plan

  bool empty() const {
    return plan.rows.empty() && plan.open_slots.empty() && plan.import_blocks.empty() && plan.import_states.empty() &&
           plan.export_blocks.empty() && plan.export_states.empty();
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
// others share ends. Chunking never changes bits.
//
// Imports of restored prefixes are spread over steps of kImportBytesPerStep.
class StepBuilder {
 public:
  static constexpr int64_t kImportBytesPerStep = int64_t{64} << 20;

  StepBuilder(const EngineConfig& config, RowCost row_cost, Scheduler& scheduler, PrefixCache& cache)
      : config_(config), row_cost_(row_cost), scheduler_(scheduler), cache_(cache) {}

  // Imports and rows of the running sequences, checkpoints of the leaving ones. `pacer` says what the step may cost.
  void Fill(StepWork& work, const StepPacer& pacer);
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
  void AddDecodeRows(StepWork& work);
  // How many time budgets the step may last: more when nobody else waits for its end.
  double BudgetsOfStep() const;
  void AddPrefillRows(StepWork& work, Budget budget);
  void AddRow(Sequence& sequence, int64_t n_tokens, StepWork& work);
  void AddCheckpoint(Sequence& sequence, int64_t n_tokens, StepWork& work);
  void AddBlockExports(Sequence& sequence, int64_t n_end, StepWork& work);
  // Tokens up to the next place where a chunk has to end.
  int64_t ChunkMax(const Sequence& sequence) const;
  bool IsCheckpointDue(const Sequence& sequence, int64_t n_tokens) const;

  static constexpr double kAloneBudgets = 4.0;

  const EngineConfig config_;
  const RowCost row_cost_;
  Scheduler& scheduler_;
  PrefixCache& cache_;
};

}  // namespace longshelf::engine
