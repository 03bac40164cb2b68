#include "attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "float_formats.h"
#include "reference_order.h"

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

// q [n_heads, width] with kLanes heads side by side: [ceil(n_heads / kLanes), width, kLanes], spare lanes zero.
std::vector<float> TransposeHeads(const float* q, int64_t n_heads, int64_t width) {
  std::vector<float> out(static_cast<size_t>((n_heads + kLanes - 1) / kLanes * width * kLanes));
  for (int64_t h = 0; h < n_heads; ++h) {
    float* lane = out.data() + h / kLanes * width * kLanes + h % kLanes;
    for (int64_t c = 0; c < width; ++c) lane[c * kLanes] = q[h * width + c];
  }
  return out;
}

// scores: [tile.n, n_heads], unscaled.
void ScoreTile(const KernelTable& kernels, const std::vector<float>& transposed_q, int64_t n_heads, int64_t width,
               const KeyTile& tile, float* scores) {
  for (int64_t h = 0; h < n_heads; h += kLanes) {
    kernels.matmul(tile.rows, tile.n, width, transposed_q.data() + h * width, std::min(kLanes, n_heads - h), width,
                   scores + h, n_heads);
  }
}

void LaneScoreTile(const float* q, int64_t n_heads, int64_t width, const KeyTile& tile, float* scores) {
  for (int64_t k = 0; k < tile.n; ++k) {
    const float* key = tile.rows + k * width;
    for (int64_t h = 0; h < n_heads; ++h) scores[k * n_heads + h] = LaneDot(q + h * width, key, width);
  }
}

// The running softmax of one head.
struct HeadState {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0F;
};

// Adds one tile to a head whose n scores are p.
void AddTile(const KernelTable& kernels, bool native, float* p, const KeyTile& tile, int64_t width, HeadState& head,
             float* out) {
  const float previous_max = head.max;
  head.max = std::max(head.max, *std::max_element(p, p + tile.n));
  const float rescale = std::exp(previous_max - head.max);
  for (int64_t k = 0; k < tile.n; ++k) p[k] = std::exp(p[k] - head.max);
  head.sum = head.sum * rescale + SumTile(p, tile.n);
  if (native) {
    for (int64_t k = 0; k < tile.n; ++k) p[k] = RoundBf16(p[k]);
  }
  kernels.weighted_sum(p, tile.rows, tile.n, width, rescale, out);
}

}  // namespace

void AppendTiles(const float* rows, int64_t n, int64_t width, std::vector<KeyTile>& tiles) {
  for (int64_t begin = 0; begin < n; begin += kAttendTile) {
    tiles.push_back({rows + begin * width, std::min(kAttendTile, n - begin)});
  }
}

void AttendKeys(const KernelTable& kernels, Numerics numerics, bool lane_scores, const float* q, int64_t n_heads,
                int64_t width, std::span<const KeyTile> tiles, std::span<const float> sink, float* out) {
  const bool native = numerics == Numerics::kNative;
  const std::vector<float> transposed_q = TransposeHeads(q, n_heads, width);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  std::vector<float> scores(static_cast<size_t>(n_heads * kAttendTile));
  std::vector<HeadState> heads(static_cast<size_t>(n_heads));
  std::fill(out, out + n_heads * width, 0.0F);
  for (const KeyTile& tile : tiles) {
    if (lane_scores) {
      LaneScoreTile(q, n_heads, width, tile, scores.data());
    } else {
      ScoreTile(kernels, transposed_q, n_heads, width, tile, scores.data());
    }
    for (int64_t i = 0; i < tile.n * n_heads; ++i) scores[static_cast<size_t>(i)] *= scale;
    for (int64_t h = 0; h < n_heads; ++h) {
      float p[kAttendTile];
      for (int64_t k = 0; k < tile.n; ++k) p[k] = scores[static_cast<size_t>(k * n_heads + h)];
      AddTile(kernels, native, p, tile, width, heads[static_cast<size_t>(h)], out + h * width);
    }
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
