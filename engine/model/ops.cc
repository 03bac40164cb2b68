#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "activation_quant.h"
#include "float_formats.h"

namespace longshelf::engine {
namespace {

// Weight rows decoded at once: small enough to stay in L1/L2 beside the activations.
constexpr int64_t kTileRows = 32;
constexpr int64_t kLinearQuantBlock = 128;

}  // namespace

bool IsQuantized(const Matrix& w) { return w.format == Matrix::Format::kFp8 || w.format == Matrix::Format::kFp4; }

Ops::Ops(const ModelConfig& config, Numerics numerics, const KernelTable& kernels, int n_threads)
    : config_(config),
      numerics_(numerics),
      kernels_(kernels),
      pool_(n_threads),
      scratch_(static_cast<size_t>(pool_.n_threads())) {}

float Ops::Round(float x) const { return native() ? RoundBf16(x) : x; }

void Ops::Round(std::span<float> x) const {
  if (!native()) return;
  for (float& v : x) v = RoundBf16(v);
}

void Ops::MatMulSerial(const Matrix& w, int64_t row_begin, int64_t row_end, const float* x, int64_t n, float* y,
                       int64_t y_stride, int thread) {
  const int64_t k = RoundUpToLanes(w.cols);
  std::vector<float>& tile = scratch(thread);
  tile.resize(static_cast<size_t>(std::max<int64_t>(kTileRows * k, static_cast<int64_t>(tile.size()))));
  for (int64_t begin = row_begin; begin < row_end; begin += kTileRows) {
    const int64_t n_rows = std::min(kTileRows, row_end - begin);
    for (int64_t r = 0; r < n_rows; ++r) kernels_.decode_row(w, begin + r, tile.data() + r * k);
    kernels_.matmul(x, n, k, tile.data(), n_rows, k, y + (begin - row_begin), y_stride);
  }
}

void Ops::MatMul(const Matrix& w, const float* x, int64_t n, float* y) { MatMulRows(w, 0, w.rows, x, n, y); }

void Ops::MatMulRows(const Matrix& w, int64_t row_begin, int64_t n_rows, const float* x, int64_t n, float* y) {
  if (n == 0) return;
  const int64_t k = RoundUpToLanes(w.cols);
  if (k != w.cols) {
    padded_.assign(static_cast<size_t>(n * k), 0.0F);
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(padded_.data() + i * k, x + i * w.cols, static_cast<size_t>(w.cols) * sizeof(float));
    }
    x = padded_.data();
  }
  const int64_t n_tiles = (n_rows + kTileRows - 1) / kTileRows;
  pool_.Run(n_tiles, [&](int64_t tile, int thread) {
    const int64_t begin = tile * kTileRows;
    const int64_t end = std::min(begin + kTileRows, n_rows);
    MatMulSerial(w, row_begin + begin, row_begin + end, x, n, y + begin, n_rows, thread);
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

void Ops::RmsNormRow(std::span<const float> weight, const float* x, int64_t width, float* out) const {
  const float mean = kernels_.dot(x, x, width) / static_cast<float>(width);
  const float r = 1.0F / std::sqrt(mean + static_cast<float>(config_.rms_norm_eps));
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
