#include "rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "elementary.h"

namespace longshelf::engine {
namespace {

std::vector<float> PlainFrequencies(int64_t dim, double theta) {
  std::vector<float> out;
  for (int64_t i = 0; i < dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    const auto power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    out.push_back(1.0F / power);
  }
  return out;
}

}  // namespace

RopeTable RopeTable::Sliding(const ModelConfig& config) {
  RopeTable table;
  table.frequencies_ = PlainFrequencies(config.rope_dim, config.rope_theta);
  return table;
}

RopeTable RopeTable::Compressed(const ModelConfig& config) {
  RopeTable table;
  const auto dim = static_cast<double>(config.rope_dim);
  table.frequencies_ = PlainFrequencies(config.rope_dim, config.compress_rope_theta);
  if (config.original_max_positions <= 0) return table;
  const auto correction = [&](double n_rotations) {
    return dim * std::log(static_cast<double>(config.original_max_positions) / (n_rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(config.compress_rope_theta));
  };
  const double low = std::max(std::floor(correction(config.rope_beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(config.rope_beta_slow)), dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < table.frequencies_.size(); ++i) {
    const float ramp =
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F, 1.0F);
    const float smooth = 1.0F - ramp;
    const float f = table.frequencies_[i];
    table.frequencies_[i] = f / static_cast<float>(config.rope_factor) * (1.0F - smooth) + f * smooth;
  }
  return table;
}

void RopeTable::Angles(int64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    CosSin(static_cast<float>(position) * frequencies_[i], cos + i, sin + i);
  }
}

}  // namespace longshelf::engine
