#pragma once

#include <cstdint>
#include <deque>

#include "absl/time/time.h"

namespace longshelf::engine {

// What a row of a step costs, in tokens of a sequence's beginning: attention and the index scan make a token that has a
// long past dearer. Pure.
struct RowCost {
  double per_position = 0.0;  // GroupShape::position_cost

  // Of n_tokens tokens after n_past.
  double Of(int64_t n_past, int64_t n_tokens) const {
    const auto n = static_cast<double>(n_tokens);
    return n * (1.0 + per_position * (static_cast<double>(n_past) + n / 2));
  }
  // The most tokens after n_past, at most n_max, that cost no more than `cost`.
  int64_t TokensWithin(double cost, int64_t n_past, int64_t n_max) const;
};

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
  double SecondsPerCost() const;
  // A step with prefill cost `cost` and took `took`.
  void Observe(double cost, absl::Duration took);

 private:
  // The first steps are small: nothing is known of this machine.
  static constexpr double kFirstCost = 16.0;
  static constexpr size_t kRemembered = 5;

  const absl::Duration budget_;
  std::deque<double> seconds_per_cost_;  // of the last steps, oldest first
};

}  // namespace longshelf::engine
