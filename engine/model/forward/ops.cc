#include "ops.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "formats.h"

namespace longshelf::engine {
namespace {

// Work items per thread of one fork: enough to even out what items cost.
constexpr int64_t kItemsPerThread = 8;
constexpr int64_t kLargestItemRows = 128;
// Of matrices with few rows, as those of hyper-connections and gates: each thread must get some of them.
constexpr int64_t kFewRows = 128;
constexpr int64_t kFewItemRows = 4;
// Operand rows of an item, when weight rows alone do not make enough items: no fewer than one decoding of weights
// serves.
constexpr int64_t kLeastItemOperands = 12;
constexpr size_t kMaxJobs = 32;

}  // namespace

bool IsQuantized(const Matrix& w) { return w.format == Matrix::Format::kFp8 || w.format == Matrix::Format::kFp4; }

Ops::Ops(const ModelConfig& config, Numerics numerics, const KernelTable& kernels, ThreadPool& pool)
    : config_(config), numerics_(numerics), kernels_(kernels), pool_(pool) {}

float Ops::Round(float x) const { return native() ? RoundBf16(x) : x; }

void Ops::Round(float* x, int64_t n) const {
  if (native()) kernels_.round_row(x, n);
}

OperandRows Ops::TakeRows(int64_t n, int64_t columns, Operand form) {
  const int64_t stride = OperandBytes(form, columns);
  return {memory_.Take<std::byte>(n * stride), stride, form};
}

void Ops::Pack(const float* x, int64_t columns, const OperandRows& rows, int64_t row) const {
  kernels_.pack(x, columns, rows.form, rows.row(row));
}

void Ops::QuantizeInput(const Matrix& w, float* x) const {
  if (native() && IsQuantized(w)) kernels_.quantize_row(x, w.cols, kLinearQuantBlock);
}

DotJob Ops::Dot(const Matrix& w, const OperandRows& x, int64_t n, float* y, bool round) const {
  return DotPart(w, 0, w.rows, x, n, y, w.rows, round);
}

DotJob Ops::DotPart(const Matrix& w, int64_t row_begin, int64_t n_rows, const OperandRows& x, int64_t n, float* y,
                    int64_t y_stride, bool round) const {
  return {&w, row_begin, n_rows, x.data, x.stride, n, x.form, y, y_stride, round && native()};
}

void Ops::Run(std::span<const DotJob> jobs) {
  LONGSHELF_CHECK(jobs.size() <= kMaxJobs);
  int64_t n_rows = 0;
  int64_t n_operands = 0;  // of the largest
  for (const DotJob& job : jobs) {
    n_rows += job.n > 0 ? job.n_rows : 0;
    n_operands = std::max(n_operands, job.n);
  }
  if (n_rows == 0) return;
  const int64_t n_wanted = kItemsPerThread * pool_.n_threads();
  const int64_t item_rows = std::clamp(n_rows / n_wanted / kDotRows * kDotRows,
                                       n_rows < kFewRows ? kFewItemRows : kDotRows, kLargestItemRows);
  int64_t first_item[kMaxJobs + 1] = {};
  for (size_t j = 0; j < jobs.size(); ++j) {
    const int64_t n_items = jobs[j].n > 0 ? (jobs[j].n_rows + item_rows - 1) / item_rows : 0;
    first_item[j + 1] = first_item[j] + n_items;
  }
  const int64_t n_items = first_item[jobs.size()];
  const int64_t n_parts =
      std::clamp(n_wanted / n_items, int64_t{1}, std::max(n_operands / kLeastItemOperands, int64_t{1}));
  pool_.Run(n_items * n_parts, [&](int64_t i, int thread) {
    const int64_t item = i / n_parts;
    const int64_t part = i % n_parts;
    size_t j = 0;
    while (item >= first_item[j + 1]) ++j;
    DotJob job = jobs[j];
    const int64_t begin = (item - first_item[j]) * item_rows;
    const int64_t first = job.n * part / n_parts;
    job.row_begin += begin;
    job.n_rows = std::min(item_rows, job.n_rows - begin);
    job.n = job.n * (part + 1) / n_parts - first;
    job.x += first * job.x_stride;
    job.y += first * job.y_stride + begin;
    if (job.n > 0) RunSerial(job, thread);
  });
}

float Ops::InverseRms(const float* x, int64_t width) const {
  const float mean = kernels_.sum_squares(x, width) / static_cast<float>(width);
  return 1.0F / std::sqrt(mean + static_cast<float>(config_.rms_norm_eps));
}

void Ops::RmsNormRow(std::span<const float> weight, const float* x, int64_t width, float* out) const {
  kernels_.scale_row(x, weight.empty() ? nullptr : weight.data(), InverseRms(x, width), width, native(), out);
}

void Ops::TakeScratch(int64_t columns, int64_t item_bytes) {
  dot_bytes_ = DotScratchBytes(columns);
  scratch_bytes_ = dot_bytes_ + (item_bytes + 63) / 64 * 64;
  scratch_ = memory_.Take<std::byte>(scratch_bytes_ * pool_.n_threads());
}

}  // namespace longshelf::engine
