#pragma once

#include "absl/time/time.h"
#include "engine/step_cost.h"

namespace longshelf::engine {

// Keeps steps within a time budget: learns from the steps so far what a unit of cost takes and says what the next one
// may cost. The past does not have to be modelled: with t(u) = fixed + u * rate, u' = budget * u / t(u) converges to
// the u that takes just the budget, from below when it begins low. Bits never depend on it; only the size of chunks.
// Owner thread: the leader's engine thread.
class StepPacer {
 public:
  // 0: no time budget.
  explicit StepPacer(absl::Duration budget) : budget_(budget) {}

  // What the next step may cost if it shall last `n_budgets` time budgets.
  double CostMax(double n_budgets) const;
  // The median of the last steps; 0: none yet.
  double SecondsPerCost() const { return rate_.SecondsPerCost(); }
  // A step with prefill cost `cost` and took `took`.
  void Observe(double cost, absl::Duration took) { rate_.Observe(cost, took); }

 private:
  // The first steps are small: nothing is known of this machine.
  static constexpr double kFirstCost = 16.0;

  const absl::Duration budget_;
  CostRate rate_;
};

}  // namespace longshelf::engine
