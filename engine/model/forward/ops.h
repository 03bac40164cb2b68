#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/reference_call.h"
#include "engine/model/weights.h"
#include "kernels.h"
#include "thread_pool.h"

namespace longshelf::engine {

// What every operation of the forward pass needs: the numeric policy, the kernels and the pool. Activations are fp32
// arrays; in native numerics they hold BF16 values wherever the published inference stores BF16.
class Ops {
 public:
  Ops(const ModelConfig& config, Numerics numerics, const KernelTable& kernels, int n_threads,
      std::optional<ReferenceCall> reference_call = std::nullopt);

  const ModelConfig& config() const { return config_; }
  bool native() const { return numerics_ == Numerics::kNative; }
  Numerics numerics() const { return numerics_; }
  const KernelTable& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }

  // A rounding point: BF16 in native numerics, nothing in fp32.
  float Round(float x) const;
  void Round(std::span<float> x) const;

  // y = x w^T: x [n, cols], y [n, rows]. No rounding, no quantisation.
  void MatMul(const Matrix& w, const float* x, int64_t n, float* y);
  // y = x (rows [row_begin, row_begin + n_rows) of w)^T: y [n, n_rows].
  void MatMulRows(const Matrix& w, int64_t row_begin, int64_t n_rows, const float* x, int64_t n, float* y);
  // The same inside one thread, for work that is already parallel. `thread` names the scratch.
  void MatMulSerial(const Matrix& w, int64_t row_begin, int64_t row_end, const float* x, int64_t n, int64_t x_stride,
                    float* y, int64_t y_stride, int thread);
  // The model's linear: in native numerics a quantised weight quantises its input (Q8, 128 channels); output rounded.
  void Linear(const Matrix& w, const float* x, int64_t n, float* y);
  // Input quantisation of a linear with weight `w`, in place; nothing in fp32 or for unquantised weights.
  void QuantizeInput(const Matrix& w, float* x, int64_t n, int64_t width) const;

  // (mean(x^2) + rms_norm_eps)^(-1/2)
  float InverseRms(const float* x, int64_t width) const;
  // out = RMS_w(x) rounded, row by row. weight may be empty (RMS_1). In place allowed.
  void RmsNorm(std::span<const float> weight, const float* x, int64_t n, int64_t width, float* out);
  void RmsNormRow(std::span<const float> weight, const float* x, int64_t width, float* out) const;

  // See ModelOptions::reference_call.
  const std::optional<ReferenceCall>& reference_call() const { return reference_call_; }

  std::vector<float>& scratch(int thread) { return scratch_[static_cast<size_t>(thread)]; }

 private:
  const ModelConfig& config_;
  const Numerics numerics_;
  const KernelTable& kernels_;
  const std::optional<ReferenceCall> reference_call_;
  ThreadPool pool_;
  std::vector<std::vector<float>> scratch_;  // decoded weight rows, per thread
  std::vector<float> quantized_;
};

bool IsQuantized(const Matrix& w);

}  // namespace longshelf::engine
