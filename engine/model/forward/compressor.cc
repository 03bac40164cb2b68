#include "compressor.h"

#include <algorithm>
#include <cstring>

namespace longshelf::engine {
namespace {

// Candidates of one pooled entry: the largest ratio, or twice the overlapping one.
constexpr int64_t kMaxCandidates = 128;

}  // namespace

void Compressor::Project(Ops& ops, const SublayerInput& input, DotJob* jobs) {
  a_ = ops.memory().Take<float>(input.n * width());
  g_ = ops.memory().Take<float>(input.n * width());
  jobs[0] = ops.Dot(weights_.wkv, input.plain, input.n, a_, false);
  jobs[1] = ops.Dot(weights_.wgate, input.plain, input.n, g_, false);
}

void Compressor::AddPosition(const Ops& ops, int64_t row, int64_t position) {
  ops.kernels().add_row(weights_.ape.data() + position % ratio_ * width(), width(), g_ + row * width());
}

const float* Compressor::A(const SequenceRows& rows, CarryRing carry, int64_t position) const {
  if (position >= rows.n_past) return a_ + (rows.row_begin + position - rows.n_past) * width();
  return reinterpret_cast<const float*>(rows.state + carry.offset) + position % carry.n_rows * width();
}

const float* Compressor::G(const SequenceRows& rows, CarryRing carry, int64_t position) const {
  if (position >= rows.n_past) return g_ + (rows.row_begin + position - rows.n_past) * width();
  return reinterpret_cast<const float*>(rows.state + carry.offset) + (carry.n_rows + position % carry.n_rows) * width();
}

void Compressor::Pool(const Ops& ops, const SequenceRows& rows, CarryRing carry, int64_t entry, float* out) const {
  const bool overlaps = ratio_ == 4;
  // Candidates in position order: the previous window's P half (first d channels), then this window's own half.
  const float* a[kMaxCandidates];
  const float* g[kMaxCandidates];
  int64_t n = 0;
  const auto add_window = [&](int64_t window, int64_t half) {
    for (int64_t position = window * ratio_; position < (window + 1) * ratio_; ++position, ++n) {
      a[n] = A(rows, carry, position) + half;
      g[n] = G(rows, carry, position) + half;
    }
  };
  if (overlaps && entry > 0) add_window(entry - 1, 0);
  add_window(entry, overlaps ? d_ : 0);
  ops.kernels().pool(a, g, n, d_, out);
  ops.Round(out, d_);
}

void Compressor::SaveCarry(const SequenceRows& rows, CarryRing carry) const {
  auto* ring = reinterpret_cast<float*>(rows.state + carry.offset);
  const auto row_bytes = static_cast<size_t>(width()) * sizeof(float);
  for (int64_t position = std::max(rows.n_total() - carry.n_rows, rows.n_past); position < rows.n_total(); ++position) {
    const int64_t row = position % carry.n_rows;
    std::memcpy(ring + row * width(), A(rows, carry, position), row_bytes);
    std::memcpy(ring + (carry.n_rows + row) * width(), G(rows, carry, position), row_bytes);
  }
}

}  // namespace longshelf::engine
