#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/kv_copies.h"
#include "engine/model/model.h"
#include "engine/step_plan.h"
#include "grammar/constraint.h"

namespace longshelf::engine {

// What an executor needs of a model: its forward pass and the meaning of a state slot. The seam for fakes.
class SequenceModel {
 public:
  virtual ~SequenceModel() = default;
  virtual uint32_t vocab_size() const = 0;
  virtual size_t block_bytes() const = 0;
  virtual size_t state_bytes() const = 0;
  // See GroupShape.
  virtual double position_cost() const = 0;
  // See KvLayout for these five.
  virtual void ResetState(std::byte* slot) const = 0;
  virtual size_t StateExportBytes(int64_t n_tokens) const = 0;
  virtual void ExportState(const std::byte* slot, int64_t n_tokens, std::span<std::byte> out) const = 0;
  virtual absl::Status ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const = 0;
  virtual void ClearTail(std::byte* block, int64_t n_tokens_in_block) const = 0;
  // See Model::Forward.
  virtual absl::StatusOr<ForwardOutput> Forward(const ForwardBatch& batch) = 0;
  // fn(i) for every i < n, each on any of the model's threads, with its rule for denormals. What the fn(i) change is
  // apart.
  virtual void ForEach(int64_t n, absl::FunctionRef<void(int64_t)> fn) {
    for (int64_t i = 0; i < n; ++i) fn(i);
  }
  // Model::replay_tokens; 0: a state cannot be rebuilt from blocks.
  virtual int64_t replay_tokens() const { return 0; }
  // Tokens at the end of what was processed that may be taken back: a later Forward begins that much earlier.
  virtual int64_t n_draft_max() const = 0;
  // Tokens its draft module guesses at a time; 0: it has none, and Draft is never called.
  virtual int64_t n_draft() const = 0;
  // See Model::Draft.
  virtual absl::StatusOr<DraftOutput> Draft(std::span<const DraftRequest> requests, int64_t n_tokens) = 0;
};

// The real one. `model` must outlive it.
std::unique_ptr<SequenceModel> MakeSequenceModel(Model& model);

struct ExecutorOptions {
  uint32_t n_slots = 0;   // sequences at home on this shard
  uint32_t n_blocks = 0;  // KV blocks of this shard's arena
  // Null: a sequence whose output is to have a form fails.
  std::shared_ptr<grammar::ConstraintCache> constraints = nullptr;
};

// One shard's part of every step: its KV arena, its state slots, its samplers and its model. Owned by the shard's
// engine thread. Decides nothing: the plan says what goes where, and a plan that does not fit (a slot or block out of
// range, a gap in a block table, an unknown token) is refused whole.
//
// Block tables: each slot's lives here. OpenSlot empties it, SetBlock appends or replaces one entry, rows are run with
// what it holds.
//
// Isolation: a block whose first token a row writes is zeroed before that row, so nothing of a block's former owner can
// be read through it; state slots are reset when opened.
class Executor {
 public:
  // RESOURCE_EXHAUSTED: the arena or the slots cannot be mapped. INVALID_ARGUMENT: an option is out of range.
  static absl::StatusOr<std::unique_ptr<Executor>> Create(std::unique_ptr<SequenceModel> model,
                                                          const ExecutorOptions& options);
  ~Executor();

  // Executes what `plan` holds for `shard`; other shards' parts are ignored, but a plan with rows anywhere runs the
  // model on every shard (experts). Copies that the plan moves have been moved before. INTERNAL: the plan does not fit.
  // Otherwise what the model said; either way the group must end.
  // n_microbatches: see ForwardBatch.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan, int shard, int n_microbatches = 1);

  // The blocks that rows of `slot` are run with, in order. REQUIRES: slot < n_slots.
  std::vector<uint32_t> BlockTableOf(uint16_t slot) const;
  // What this shard keeps beside its arena.
  KvCopies& copies();
  // Of this shard's arena, for a group of `n_shards` like it.
  GroupShape shape(int n_shards) const;

 private:
  struct Impl;
  explicit Executor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// R = 1: the whole group is this process.
class LocalStepRunner final : public StepRunner {
 public:
  explicit LocalStepRunner(Executor& executor) : executor_(executor) {}
  GroupShape shape() const override { return executor_.shape(1); }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override { return executor_.Execute(plan, 0); }

 private:
  Executor& executor_;
};

}  // namespace longshelf::engine
