#include "attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "float_formats.h"

namespace longshelf::engine {

void AttendKeys(const KernelTable& kernels, Numerics numerics, const float* q, int64_t n_heads, int64_t width,
                std::span<const float* const> keys, std::span<const float> sink, std::span<float> p, float* out) {
  const bool native = numerics == Numerics::kNative;
  const auto n_keys = static_cast<int64_t>(keys.size());
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  for (int64_t h = 0; h < n_heads; ++h) {
    float max = -std::numeric_limits<float>::infinity();
    for (size_t k = 0; k < keys.size(); ++k) {
      p[k] = kernels.dot(q + h * width, keys[k], width) * scale;
      max = std::max(max, p[k]);
    }
    float sum = 0.0F;
    for (float& v : p) {
      v = std::exp(v - max);
      sum += v;
      if (native) v = RoundBf16(v);
    }
    sum += std::exp(sink[static_cast<size_t>(h)] - max);
    float* o = out + h * width;
    kernels.weighted_sum(p.data(), keys.data(), n_keys, width, o);
    for (int64_t c = 0; c < width; ++c) {
      o[c] /= sum;
      if (native) o[c] = RoundBf16(o[c]);
    }
  }
}

}  // namespace longshelf::engine
