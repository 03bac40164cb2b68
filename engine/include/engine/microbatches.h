#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "engine/step_cost.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

enum class Microbatches : uint8_t {
  kOne,      // every step as a whole
  kTwo,      // every step that is large enough in two
  kMeasured  // as what was faster so far
};

// Whether a step runs as a whole or in two microbatches, of which one computes while the other's rows travel between
// shards. Smaller steps are never split: every expert that both halves want is read twice. What pays depends on the
// network and on the machine, so both ways are timed, per unit of cost (RowCost), and the faster one is taken; the
// other one is tried again now and then. No bit of any result depends on it. Owner thread: the leader's engine thread.
class MicrobatchChoice {
 public:
  // Rows of the fullest shard in the smallest step that is split.
  static constexpr int64_t kRowsMin = 128;
  static constexpr int kTrialSteps = 3;      // of each way, before anything is known
  static constexpr int kTryAgainAfter = 64;  // steps

  MicrobatchChoice(Microbatches mode, RowCost cost) : mode_(mode), cost_(cost) {}

  // 1 or 2, for a step with these rows.
  int Next(const StepPlan& plan, int n_shards);
  // How long that step took.
  void Observe(absl::Duration took);

 private:
  const Microbatches mode_;
  const RowCost cost_;
  std::array<CostRate, 2> rates_;  // of whole steps and of split ones
  int last_ = 1;                   // what Next said
  double last_cost_ = 0.0;         // of that step's fullest shard; 0: it was too small
  int n_since_try_ = 0;            // steps since the slower way was tried
};

}  // namespace longshelf::engine
