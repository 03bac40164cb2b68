#include "step_pacer.h"

#include <limits>

namespace longshelf::engine {

double StepPacer::CostMax(double n_budgets) const {
  if (budget_ == absl::ZeroDuration()) return std::numeric_limits<double>::infinity();
  if (rate_.n() == 0) return kFirstCost;
  return n_budgets * absl::ToDoubleSeconds(budget_) / SecondsPerCost();
}

}  // namespace longshelf::engine
