#include "attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "float_formats.h"

namespace longshelf::engine {
namespace {

// Sum of a tile's n <= kAttendTile probabilities: 32 accumulators folded in fours of eight lanes, then lane by lane.
float SumTile(const float* p, int64_t n) {
  float lanes[32] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i % 32] += p[i];
  float sum = 0.0F;
  for (int64_t j = 0; j < 8; ++j) sum += ((lanes[j] + lanes[8 + j]) + lanes[16 + j]) + lanes[24 + j];
  return sum;
}

// scores: [n_heads, kAttendTile] of n <= kAttendTile keys, scaled.
void ScoreTile(const KernelTable& kernels, const float* q, int64_t n_heads, int64_t width, const float* const* keys,
               int64_t n, std::vector<float>& transposed, float* scores) {
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  transposed.assign(static_cast<size_t>(width * kLanes), 0.0F);
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    const int64_t n_keys = std::min(kLanes, n - begin);
    for (int64_t k = 0; k < n_keys; ++k) {
      const float* key = keys[begin + k];
      for (int64_t c = 0; c < width; ++c) transposed[static_cast<size_t>(c * kLanes + k)] = key[c];
    }
    kernels.matmul(q, n_heads, width, transposed.data(), n_keys, width, scores + begin, kAttendTile);
  }
  for (int64_t h = 0; h < n_heads; ++h) {
    for (int64_t k = 0; k < n; ++k) scores[h * kAttendTile + k] *= scale;
  }
}

// The running softmax of one head.
struct HeadState {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0F;
};

// Adds one tile to a head: p holds its n scores and is overwritten by their probabilities.
void AddTile(const KernelTable& kernels, bool native, float* p, const float* const* keys, int64_t n, int64_t width,
             HeadState& head, float* out) {
  const float previous_max = head.max;
  head.max = std::max(head.max, *std::max_element(p, p + n));
  const float rescale = std::exp(previous_max - head.max);
  for (int64_t k = 0; k < n; ++k) p[k] = std::exp(p[k] - head.max);
  head.sum = head.sum * rescale + SumTile(p, n);
  if (native) {
    for (int64_t k = 0; k < n; ++k) p[k] = RoundBf16(p[k]);
  }
  kernels.weighted_sum(p, keys, n, width, rescale, out);
}

}  // namespace

void AttendKeyTiles::CloseGroup() {
  for (; n_closed_ < keys.size(); n_closed_ += static_cast<size_t>(tile_sizes.back())) {
    tile_sizes.push_back(std::min(kAttendTile, static_cast<int64_t>(keys.size() - n_closed_)));
  }
}

void AttendKeys(const KernelTable& kernels, Numerics numerics, const float* q, int64_t n_heads, int64_t width,
                const AttendKeyTiles& tiles, std::span<const float> sink, float* out) {
  const bool native = numerics == Numerics::kNative;
  std::vector<float> transposed;
  std::vector<float> scores(static_cast<size_t>(n_heads * kAttendTile));
  std::vector<HeadState> heads(static_cast<size_t>(n_heads));
  std::fill(out, out + n_heads * width, 0.0F);
  const float* const* keys = tiles.keys.data();
  for (const int64_t n : tiles.tile_sizes) {
    ScoreTile(kernels, q, n_heads, width, keys, n, transposed, scores.data());
    for (int64_t h = 0; h < n_heads; ++h) {
      AddTile(kernels, native, scores.data() + h * kAttendTile, keys, n, width, heads[static_cast<size_t>(h)],
              out + h * width);
    }
    keys += n;
  }
  for (int64_t h = 0; h < n_heads; ++h) {
    const auto at = static_cast<size_t>(h);
    const float denominator = heads[at].sum + std::exp(sink[at] - heads[at].max);
    for (int64_t c = h * width; c < (h + 1) * width; ++c) {
      out[c] /= denominator;
      if (native) out[c] = RoundBf16(out[c]);
    }
  }
}

}  // namespace longshelf::engine
