#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/model/config.h"
#include "engine/model/weights.h"
#include "kernel_table.h"
#include "thread_pool.h"
#include "workspace.h"

namespace longshelf::engine {

// Channels per scale of a quantised linear's input.
inline constexpr int64_t kLinearQuantBlock = 128;

// Rows of activations in the form that sums read.
struct OperandRows {
  std::byte* data = nullptr;
  int64_t stride = 0;  // bytes
  Operand form = Operand::kSplit;

  std::byte* row(int64_t i) const { return data + i * stride; }
  OperandRows From(int64_t first) const { return {row(first), stride, form}; }
};

// What every operation of the forward pass needs: the numeric policy, the kernels, the pool and the memory of the step
// or of one of its microbatches.
// Activations are fp32 arrays; in native numerics they hold BF16 values wherever the published inference stores BF16.
class Ops {
 public:
  // `pool` must outlive this; several may share it, as one computes at a time.
  Ops(const ModelConfig& config, Numerics numerics, const KernelTable& kernels, ThreadPool& pool);

  const ModelConfig& config() const { return config_; }
  bool native() const { return numerics_ == Numerics::kNative; }
  Numerics numerics() const { return numerics_; }
  const KernelTable& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  Workspace& memory() { return memory_; }
  // The form of values that were rounded to BF16; in fp32 numerics nothing was.
  Operand form() const { return native() ? kernels_.native_form : Operand::kSplit; }

  // A rounding point: BF16 in native numerics, nothing in fp32.
  float Round(float x) const;
  void Round(float* x, int64_t n) const;

  OperandRows TakeRows(int64_t n, int64_t columns) { return TakeRows(n, columns, form()); }
  OperandRows TakeRows(int64_t n, int64_t columns, Operand form);
  void Pack(const float* x, int64_t columns, const OperandRows& rows, int64_t row) const;
  // Quantises x in place as the input of a linear with weight `w` (Q8, 128 channels): nothing in fp32 numerics or for
  // weights that are not quantised.
  void QuantizeInput(const Matrix& w, float* x) const;

  // y = x w^T: x [n] operands, y [n, w.rows]. round: a rounding point follows.
  DotJob Dot(const Matrix& w, const OperandRows& x, int64_t n, float* y, bool round) const;
  // Rows [row_begin, row_begin + n_rows) of w only; y [n, y_stride].
  DotJob DotPart(const Matrix& w, int64_t row_begin, int64_t n_rows, const OperandRows& x, int64_t n, float* y,
                 int64_t y_stride, bool round) const;
  // All of them, in one fork and join.
  void Run(std::span<const DotJob> jobs);
  // One of them, inside a work item.
  void RunSerial(const DotJob& job, int thread) { kernels_.dot(job, scratch_ + thread * scratch_bytes_); }

  // (mean(x^2) + rms_norm_eps)^(-1/2)
  float InverseRms(const float* x, int64_t width) const;
  // out = RMS_w(x) rounded. weight may be empty (RMS_1). In place allowed.
  void RmsNormRow(std::span<const float> weight, const float* x, int64_t width, float* out) const;

  // Memory of one thread for the time of a work item; RunSerial leaves it alone.
  std::byte* scratch(int thread) const { return scratch_ + thread * scratch_bytes_ + dot_bytes_; }
  // Takes the threads' scratch, at the start of a step: for sums over at most `columns`, and work items.
  void TakeScratch(int64_t columns, int64_t item_bytes);

 private:
  const ModelConfig& config_;
  const Numerics numerics_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  Workspace memory_;
  std::byte* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;  // of one thread
  int64_t dot_bytes_ = 0;      // at its beginning, for the weights that a sum decodes
};

bool IsQuantized(const Matrix& w);

}  // namespace longshelf::engine
