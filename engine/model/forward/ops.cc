#include "ops.h"

#include <algorithm>
#include <cmath>

#include "activation_quant.h"
#include "float_formats.h"
#include "reference_order.h"

namespace longshelf::engine {
namespace {

// Weight rows per work item.
constexpr int64_t kTileRows = 2 * kLanes;
constexpr int64_t kLinearQuantBlock = 128;

}  // namespace

bool IsQuantized(const Matrix& w) { return w.format == Matrix::Format::kFp8 || w.format == Matrix::Format::kFp4; }

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
  if (reference_call_.has_value() && HasSmallProducts(*reference_call_) && w.cols % kLanes == 0) {
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
    if (reference_call_.has_value() && AddsInHalves(*reference_call_, w.cols)) {
      MatMulInHalves(kernels_, x, n, x_stride, tile, n_rows, w.cols, out, y_stride);
    } else {
      kernels_.matmul(x, n, x_stride, tile, n_rows, w.cols, out, y_stride);
    }
  }
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
