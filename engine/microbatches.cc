#include "engine/microbatches.h"

#include <algorithm>
#include <vector>

namespace longshelf::engine {

int MicrobatchChoice::Next(const StepPlan& plan, int n_shards) {
  last_ = 1;
  last_cost_ = 0.0;
  if (mode_ == Microbatches::kOne) return last_;
  std::vector<int64_t> n_rows(static_cast<size_t>(n_shards), 0);
  std::vector<double> costs(static_cast<size_t>(n_shards), 0.0);
  for (const StepPlan::Row& row : plan.rows) {
    const auto n = static_cast<int64_t>(row.tokens.size());
    n_rows[row.slot.shard] += n;
    costs[row.slot.shard] += cost_.Of(row.n_past, n);
  }
  if (*std::max_element(n_rows.begin(), n_rows.end()) < kRowsMin) return last_;
  last_cost_ = *std::max_element(costs.begin(), costs.end());
  if (mode_ == Microbatches::kTwo) return last_ = 2;
  for (size_t way = 0; way < rates_.size(); ++way) {
    if (rates_[way].n() < kTrialSteps) return last_ = static_cast<int>(way) + 1;
  }
  last_ = rates_[1].SecondsPerCost() < rates_[0].SecondsPerCost() ? 2 : 1;
  if (++n_since_try_ < kTryAgainAfter) return last_;
  n_since_try_ = 0;
  return last_ = 3 - last_;
}

void MicrobatchChoice::Observe(absl::Duration took) {
  if (last_cost_ > 0.0) rates_[static_cast<size_t>(last_ - 1)].Observe(last_cost_, took);
}

}  // namespace longshelf::engine
