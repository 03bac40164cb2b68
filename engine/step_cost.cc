#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace longshelf::engine {

int64_t RowCost::TokensWithin(double cost, int64_t n_past, int64_t n_max) const {
  if (Of(n_past, n_max) <= cost) return n_max;
  if (cost <= 0.0) return 0;
  // n (1 + p (n_past + n/2)) = cost, for n.
  const double linear = 1.0 + per_position * static_cast<double>(n_past);
  const double root = std::sqrt(linear * linear + 2.0 * per_position * cost);
  const double n = 2.0 * cost / (linear + root);
  return std::min(static_cast<int64_t>(n), n_max);
}

double CostRate::SecondsPerCost() const {
  if (seconds_per_cost_.empty()) return 0.0;
  // One slow step (a page fault, a neighbour) shall not shrink the next: the median counts.
  std::vector<double> sorted(seconds_per_cost_.begin(), seconds_per_cost_.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

void CostRate::Observe(double cost, absl::Duration took) {
  if (cost <= 0.0 || took <= absl::ZeroDuration()) return;
  seconds_per_cost_.push_back(absl::ToDoubleSeconds(took) / cost);
  if (seconds_per_cost_.size() > kRemembered) seconds_per_cost_.pop_front();
}

}  // namespace longshelf::engine
