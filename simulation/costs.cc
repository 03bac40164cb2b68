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

}  // namespace longshelf::simulation
