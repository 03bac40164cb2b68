#include "ops.h"

#include <algorithm>
#include <cmath>

#include "activation_quant.h"
#include "float_formats.h"

namespace longshelf::engine {
namespace {

// Weight rows per work item.
constexpr int64_t kTileRows = 2 * kLanes;
constexpr int64_t kLinearQuantBlock = 128;
// Of ReferenceCall: values of one vector rsqrt; columns up to which a product is the same whole and in halves; tokens
// from which a call's products are no longer small.
constexpr int64_t kRsqrtValues = 32;
constexpr int64_t kShortestHalved = 2 * kSumBlock;
constexpr int64_t kSmallCall = 16;

}  // namespace

bool IsQuantized(const Matrix& w) { return w.format == Matrix::Format::kFp8 || w.format == Matrix::Format::kFp4; }

float LaneDot(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  for (int64_t c = 0; c < n; c += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = std::fma(a[c + j], b[c + j], lanes[j]);
  }
  float fours[4];
  for (int j = 0; j < 4; ++j) fours[j] = ((lanes[j] + lanes[j + 4]) + lanes[j + 8]) + lanes[j + 12];
  return (fours[0] + fours[1]) + (fours[2] + fours[3]);
}

Ops::Ops(const ModelConfig& config, Numerics numerics, const KernelTable& kernels, int n_threads,
         std::optional<ReferenceCall> reference_call)
    : config_(config),
      numerics_(numerics),
      kernels_(kernels),
      reference_call_(reference_call),
      pool_(n_threads),
      scratch_(static_cast<size_t>(pool_.n_threads())) {}

float Ops::Round(float x) const { return native() ? RoundBf16(x) : x; }

void Ops::Round(std::span<float> x) const {
  if (!native()) return;
  for (float& v : x) v = RoundBf16(v);
}

void Ops::MatMulSerial(const Matrix& w, int64_t row_begin, int64_t row_end, const float* x, int64_t n, int64_t x_stride,
                       float* y, int64_t y_stride, int thread) {
  const int64_t row_width = RoundUpToLanes(w.cols);
  const auto need = static_cast<size_t>((kLanes + 1) * row_width);
  std::vector<float>& memory = scratch(thread);
  if (memory.size() < need) memory.resize(need);
  float* row = memory.data();
  if (reference_call_.has_value() && reference_call_->n_tokens < kSmallCall && w.cols % kLanes == 0) {
    for (int64_t r = row_begin; r < row_end; ++r) {
      kernels_.decode_row(w, r, row);
      for (int64_t i = 0; i < n; ++i) y[i * y_stride + r - row_begin] = LaneDot(x + i * x_stride, row, w.cols);
    }
    return;
  }
  float* tile = row + row_width;  // [cols, kLanes]
  for (int64_t begin = row_begin; begin < row_end; begin += kLanes) {
    const int64_t n_rows = std::min(kLanes, row_end - begin);
    if (n_rows < kLanes) std::fill_n(tile, w.cols * kLanes, 0.0F);
    for (int64_t r = 0; r < n_rows; ++r) {
      kernels_.decode_row(w, begin + r, row);
      for (int64_t c = 0; c < w.cols; ++c) tile[c * kLanes + r] = row[c];
    }
    float* out = y + (begin - row_begin);
    if (reference_call_.has_value() && reference_call_->n_threads == 2 && w.cols > kShortestHalved) {
      MatMulHalves(x, n, x_stride, tile, n_rows, w.cols, out, y_stride);
    } else {
      kernels_.matmul(x, n, x_stride, tile, n_rows, w.cols, out, y_stride);
    }
  }
}

// The sum of each half of the columns, then their sum.
void Ops::MatMulHalves(const float* x, int64_t n, int64_t x_stride, const float* tile, int64_t n_rows, int64_t cols,
                       float* y, int64_t y_stride) const {
  std::vector<float> block(static_cast<size_t>(n * kLanes));
  std::vector<float> halves[2];
  const bool even = cols / 2 <= 2 * kSumBlock;  // two blocks of one width; more blocks are full ones and a rest
  for (int64_t half = 0; half < 2; ++half) {
    std::vector<float>& sum = halves[half];
    sum.assign(static_cast<size_t>(n * kLanes), 0.0F);
    const int64_t end = half == 0 ? cols / 2 : cols;
    for (int64_t c = half * (cols / 2); c < end;) {
      const int64_t rest = end - c;
      const int64_t width = even ? NextSumBlock(rest) : std::min(kSumBlock, rest);
      kernels_.matmul(x + c, n, x_stride, tile + c * kLanes, n_rows, width, block.data(), kLanes);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += block[i];
      c += width;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = 0; r < n_rows; ++r) {
      const auto at = static_cast<size_t>(i * kLanes + r);
      y[i * y_stride + r] = halves[0][at] + halves[1][at];
    }
  }
}

bool Ops::RoundsRsqrtTwice(int64_t position, int64_t head) const {
  if (!reference_call_.has_value() || !native()) return false;
  const int64_t n_whole = reference_call_->n_tokens * config_.n_heads / kRsqrtValues * kRsqrtValues;
  return position * config_.n_heads + head >= n_whole;
}

void Ops::MatMul(const Matrix& w, const float* x, int64_t n, float* y) { MatMulRows(w, 0, w.rows, x, n, y); }

void Ops::MatMulRows(const Matrix& w, int64_t row_begin, int64_t n_rows, const float* x, int64_t n, float* y) {
  if (n == 0) return;
  const int64_t n_tiles = (n_rows + kTileRows - 1) / kTileRows;
  pool_.Run(n_tiles, [&](int64_t tile, int thread) {
    const int64_t begin = tile * kTileRows;
    const int64_t end = std::min(begin + kTileRows, n_rows);
    MatMulSerial(w, row_begin + begin, row_begin + end, x, n, w.cols, y + begin, n_rows, thread);
  });
}

void Ops::QuantizeInput(const Matrix& w, float* x, int64_t n, int64_t width) const {
  if (!native() || !IsQuantized(w)) return;
  for (int64_t i = 0; i < n; ++i) FakeQuantE4m3(x + i * width, width, kLinearQuantBlock);
}

void Ops::Linear(const Matrix& w, const float* x, int64_t n, float* y) {
  if (native() && IsQuantized(w)) {
    quantized_.assign(x, x + n * w.cols);
    QuantizeInput(w, quantized_.data(), n, w.cols);
    x = quantized_.data();
  }
  MatMul(w, x, n, y);
  Round({y, static_cast<size_t>(n * w.rows)});
}

float Ops::InverseRms(const float* x, int64_t width) const {
  const float mean = kernels_.sum_squares(x, width) / static_cast<float>(width);
  return 1.0F / std::sqrt(mean + static_cast<float>(config_.rms_norm_eps));
}

void Ops::RmsNormRow(std::span<const float> weight, const float* x, int64_t width, float* out) const {
  const float r = InverseRms(x, width);
  if (weight.empty()) {
    for (int64_t i = 0; i < width; ++i) out[i] = Round(x[i] * r);
  } else {
    for (int64_t i = 0; i < width; ++i) out[i] = Round(weight[static_cast<size_t>(i)] * (x[i] * r));
  }
}

void Ops::RmsNorm(std::span<const float> weight, const float* x, int64_t n, int64_t width, float* out) {
  pool_.Run(n, [&](int64_t i, int) { RmsNormRow(weight, x + i * width, width, out + i * width); });
}

}  // namespace longshelf::engine
