#include "attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "float_formats.h"

namespace longshelf::engine {
namespace {

// One head, by online softmax over the tiles. p: scratch of the largest tile.
void AttendHead(const KernelTable& kernels, bool native, const float* q, int64_t width, const AttendKeyTiles& tiles,
                float sink, std::span<float> p, float* out) {
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0.0;
  std::fill(out, out + width, 0.0F);
  const float* const* keys = tiles.keys.data();
  for (const int64_t n : tiles.tile_sizes) {
    const float previous_max = max;
    for (int64_t k = 0; k < n; ++k) {
      p[static_cast<size_t>(k)] = kernels.dot(q, keys[k], width) * scale;
      max = std::max(max, p[static_cast<size_t>(k)]);
    }
    const float rescale = std::exp(previous_max - max);
    double tile_sum = 0.0;
    for (float& v : p.first(static_cast<size_t>(n))) {
      v = std::exp(v - max);
      tile_sum += static_cast<double>(v);
      if (native) v = RoundBf16(v);
    }
    sum = sum * static_cast<double>(rescale) + tile_sum;
    kernels.weighted_sum(p.data(), keys, n, width, rescale, out);
    keys += n;
  }
  sum += std::exp(static_cast<double>(sink) - static_cast<double>(max));
  const auto denominator = static_cast<float>(sum);
  for (int64_t c = 0; c < width; ++c) {
    out[c] /= denominator;
    if (native) out[c] = RoundBf16(out[c]);
  }
}

}  // namespace

void AttendKeyTiles::CloseGroup() {
  for (; n_closed_ < keys.size(); n_closed_ += static_cast<size_t>(tile_sizes.back())) {
    tile_sizes.push_back(std::min(kAttendTile, static_cast<int64_t>(keys.size() - n_closed_)));
  }
}

void AttendKeys(const KernelTable& kernels, Numerics numerics, const float* q, int64_t n_heads, int64_t width,
                const AttendKeyTiles& tiles, std::span<const float> sink, float* out) {
  float p[kAttendTile];
  for (int64_t h = 0; h < n_heads; ++h) {
    AttendHead(kernels, numerics == Numerics::kNative, q + h * width, width, tiles, sink[static_cast<size_t>(h)], p,
               out + h * width);
  }
}

}  // namespace longshelf::engine
