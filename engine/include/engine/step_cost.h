#pragma once

#include <cstddef>
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

// What a unit of cost has taken lately.
class CostRate {
 public:
  // A step of cost `cost` took `took`.
  void Observe(double cost, absl::Duration took);
  // Steps that are remembered.
  size_t n() const { return seconds_per_cost_.size(); }
  // The median of the last steps; 0: none yet.
  double SecondsPerCost() const;

 private:
  static constexpr size_t kRemembered = 5;
  std::deque<double> seconds_per_cost_;  // oldest first
};

}  // namespace longshelf::engine
