#include "reference_order.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace longshelf::engine {
namespace {

// Values of one vector rsqrt.
constexpr int64_t kRsqrtValues = 32;
// Tokens from which a call's products are no longer small.
constexpr int64_t kSmallCall = 16;
// Columns up to which a product is the same whole and in halves.
constexpr int64_t kShortestHalved = 2 * kSumBlock;

}  // namespace

bool HasSmallProducts(const ReferenceCall& call) { return call.n_tokens < kSmallCall; }

bool AddsInHalves(const ReferenceCall& call, int64_t cols) { return call.n_threads == 2 && cols > kShortestHalved; }

bool RoundsRsqrtTwice(const ReferenceCall& call, int64_t n_heads, int64_t position, int64_t head) {
  const int64_t n_whole = call.n_tokens * n_heads / kRsqrtValues * kRsqrtValues;
  return position * n_heads + head >= n_whole;
}

float LaneDot(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  for (int64_t c = 0; c < n; c += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = std::fma(a[c + j], b[c + j], lanes[j]);
  }
  float fours[4];
  for (int j = 0; j < 4; ++j) fours[j] = ((lanes[j] + lanes[j + 4]) + lanes[j + 8]) + lanes[j + 12];
  return (fours[0] + fours[1]) + (fours[2] + fours[3]);
}

void MatMulInHalves(const KernelTable& kernels, const float* x, int64_t m, int64_t x_stride, const float* w, int64_t n,
                    int64_t k, float* y, int64_t y_stride) {
  std::vector<float> block(static_cast<size_t>(m * kLanes));
  std::vector<float> halves[2];
  const bool even = k / 2 <= 2 * kSumBlock;  // two blocks of one width; more blocks are full ones and a rest
  for (int64_t half = 0; half < 2; ++half) {
    std::vector<float>& sum = halves[half];
    sum.assign(static_cast<size_t>(m * kLanes), 0.0F);
    const int64_t end = half == 0 ? k / 2 : k;
    for (int64_t c = half * (k / 2); c < end;) {
      const int64_t width = even ? NextSumBlock(end - c) : std::min(kSumBlock, end - c);
      kernels.matmul(x + c, m, x_stride, w + c * kLanes, n, width, block.data(), kLanes);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += block[i];
      c += width;
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t r = 0; r < n; ++r) {
      const auto at = static_cast<size_t>(i * kLanes + r);
      y[i * y_stride + r] = halves[0][at] + halves[1][at];
    }
  }
}

}  // namespace longshelf::engine
