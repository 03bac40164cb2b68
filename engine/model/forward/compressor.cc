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

// The carry holds rows a [ratio, width], then rows g; row = position % ratio.
const float* Compressor::A(const SequenceRows& rows, const float* carry_rows, int64_t position) const {
  return position >= rows.n_past ? a_ + (rows.row_begin + position - rows.n_past) * width()
                                 : carry_rows + position % ratio_ * width();
}

const float* Compressor::G(const SequenceRows& rows, const float* carry_rows, int64_t position) const {
  return position >= rows.n_past ? g_ + (rows.row_begin + position - rows.n_past) * width()
                                 : carry_rows + (ratio_ + position % ratio_) * width();
}

void Compressor::Pool(const Ops& ops, const SequenceRows& rows, KvLayout::CarryOffsets carry, int64_t entry,
                      float* out) const {
  const auto* carry_rows = reinterpret_cast<const float*>(rows.state + carry.rows);
  const auto* previous = reinterpret_cast<const float*>(rows.state + carry.previous);
  const bool overlaps = ratio_ == 4;
  // Candidates in position order: the previous window's P half (first d channels), then this window's own half.
  const float* a[kMaxCandidates];
  const float* g[kMaxCandidates];
  int64_t n = 0;
  if (overlaps && entry > 0) {
    const int64_t begin = (entry - 1) * ratio_;
    const bool saved = begin + ratio_ <= rows.n_past;  // completed before this chunk: only its P half was kept
    for (int64_t i = 0; i < ratio_; ++i, ++n) {
      a[n] = saved ? previous + i * d_ : A(rows, carry_rows, begin + i);
      g[n] = saved ? previous + (ratio_ + i) * d_ : G(rows, carry_rows, begin + i);
    }
  }
  const int64_t own_half = overlaps ? d_ : 0;
  for (int64_t i = 0; i < ratio_; ++i, ++n) {
    a[n] = A(rows, carry_rows, entry * ratio_ + i) + own_half;
    g[n] = G(rows, carry_rows, entry * ratio_ + i) + own_half;
  }
  ops.kernels().pool(a, g, n, d_, out);
  ops.Round(out, d_);
}

void Compressor::SaveCarry(const SequenceRows& rows, KvLayout::CarryOffsets carry) const {
  const int64_t n_total = rows.n_total();
  const int64_t n_windows = n_total / ratio_;
  auto* carry_rows = reinterpret_cast<float*>(rows.state + carry.rows);
  if (ratio_ == 4 && n_windows > rows.n_past / ratio_) {
    auto* previous = reinterpret_cast<float*>(rows.state + carry.previous);
    const auto half_bytes = static_cast<size_t>(d_) * sizeof(float);
    for (int64_t i = 0; i < ratio_; ++i) {
      const int64_t position = (n_windows - 1) * ratio_ + i;
      std::memcpy(previous + i * d_, A(rows, carry_rows, position), half_bytes);
      std::memcpy(previous + (ratio_ + i) * d_, G(rows, carry_rows, position), half_bytes);
    }
  }
  const auto row_bytes = static_cast<size_t>(width()) * sizeof(float);
  for (int64_t position = std::max(n_windows * ratio_, rows.n_past); position < n_total; ++position) {
    const int64_t row = position % ratio_;
    std::memcpy(carry_rows + row * width(), A(rows, carry_rows, position), row_bytes);
    std::memcpy(carry_rows + (ratio_ + row) * width(), G(rows, carry_rows, position), row_bytes);
  }
}

}  // namespace longshelf::engine
