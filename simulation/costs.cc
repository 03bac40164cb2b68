#include "simulation/costs.h"

#include <algorithm>

namespace longshelf::simulation {

double Curve::At(double x) const {
  if (points_.empty() || x <= 0) return 0;
  const auto above = std::find_if(points_.begin(), points_.end(), [x](const auto& p) { return p.first >= x; });
  const auto right = above == points_.end() ? above - 1 : above;
  const std::pair<double, double> origin = {0, 0};
  const auto& left = right == points_.begin() ? origin : *(right - 1);
  const double slope = (right->second - left.second) / (right->first - left.first);
  return left.second + slope * (x - left.first);
}

Curve Curve::Times(double factor) const {
  Curve out = *this;
  for (auto& point : out.points_) point.second *= factor;
  return out;
}

ExchangeCosts Faster(const ExchangeCosts& costs, double factor) {
  ExchangeCosts out = costs;
  out.phase_s /= factor;
  out.pair_s /= factor;
  out.offloaded_message_s /= factor;
  for (WayCosts* way : {&out.shared_memory, &out.tcp}) {
    way->message_s /= factor;
    for (BulkCosts* bulk : {&way->between_cores, &way->on_one_core}) {
      bulk->rows_s = bulk->rows_s.Times(1 / factor);
      bulk->results_s = bulk->results_s.Times(1 / factor);
    }
  }
  return out;
}

}  // namespace longshelf::simulation
