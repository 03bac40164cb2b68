#include "compressor.h"

#include <algorithm>
#include <cstring>

#include "exp.h"

namespace longshelf::engine {

// Where the (a, g) row of any position of the current windows is: this chunk, or the carry.
struct Compressor::Source {
  const float* chunk_a;  // row of position n_past
  const float* chunk_g;
  int64_t n_past;
  const float* carry_a;  // row = position % ratio
  const float* carry_g;
  const float* previous_a;  // P half of the last window completed before this chunk, [ratio, d]
  const float* previous_g;
  int64_t ratio;
  int64_t width;  // coff * d

  const float* A(int64_t position) const {
    return position >= n_past ? chunk_a + (position - n_past) * width : carry_a + position % ratio * width;
  }
  const float* G(int64_t position) const {
    return position >= n_past ? chunk_g + (position - n_past) * width : carry_g + position % ratio * width;
  }
};

void Compressor::Project(Ops& ops, const float* x, int64_t n) {
  const int64_t width = weights_.wkv.rows;
  a_.resize(static_cast<size_t>(n * width));
  g_.resize(static_cast<size_t>(n * width));
  ops.MatMul(weights_.wkv, x, n, a_.data());
  ops.MatMul(weights_.wgate, x, n, g_.data());
}

PooledEntries Compressor::Pool(Ops& ops, const SequenceRows& rows, KvLayout::CarryOffsets carry) const {
  const int64_t width = weights_.wkv.rows;
  auto* carry_rows = reinterpret_cast<float*>(rows.state + carry.rows);
  auto* carry_previous = reinterpret_cast<float*>(rows.state + carry.previous);
  // g carries the position embedding from here on, also in saved state.
  std::vector<float> g(g_.begin() + rows.row_begin * width, g_.begin() + (rows.row_begin + rows.n_rows) * width);
  for (int64_t i = 0; i < rows.n_rows; ++i) {
    const float* ape = weights_.ape.data() + (rows.n_past + i) % ratio_ * width;
    for (int64_t c = 0; c < width; ++c) g[static_cast<size_t>(i * width + c)] += ape[c];
  }
  const Source source{a_.data() + rows.row_begin * width,
                      g.data(),
                      rows.n_past,
                      carry_rows,
                      carry_rows + ratio_ * width,
                      carry_previous,
                      carry_previous + ratio_ * d_,
                      ratio_,
                      width};
  PooledEntries out;
  out.first = rows.n_past / ratio_;
  out.count = rows.n_total() / ratio_ - out.first;
  out.values.resize(static_cast<size_t>(out.count * d_));
  ops.pool().Run(out.count, [&](int64_t i, int) {
    float* values = out.values.data() + i * d_;
    PoolWindow(source, out.first + i, values);
    ops.Round({values, static_cast<size_t>(d_)});
  });
  SaveCarry(source, rows, carry);
  return out;
}

void Compressor::PoolWindow(const Source& source, int64_t entry, float* out) const {
  const bool overlaps = ratio_ == 4;
  // Candidates in position order: the previous window's P half (first d channels), then this window's own half.
  const float* a[2 * 128];
  const float* g[2 * 128];
  int64_t n = 0;
  if (overlaps && entry > 0) {
    const int64_t begin = (entry - 1) * ratio_;
    const bool saved = begin + ratio_ <= source.n_past;  // completed before this chunk: only its P half was kept
    for (int64_t i = 0; i < ratio_; ++i, ++n) {
      a[n] = saved ? source.previous_a + i * d_ : source.A(begin + i);
      g[n] = saved ? source.previous_g + i * d_ : source.G(begin + i);
    }
  }
  const int64_t own_half = overlaps ? d_ : 0;
  for (int64_t i = 0; i < ratio_; ++i, ++n) {
    a[n] = source.A(entry * ratio_ + i) + own_half;
    g[n] = source.G(entry * ratio_ + i) + own_half;
  }
  for (int64_t c = 0; c < d_; ++c) {
    float max = g[0][c];
    for (int64_t i = 1; i < n; ++i) max = std::max(max, g[i][c]);
    float weights[2 * 128];
    float sum = 0.0F;
    for (int64_t i = 0; i < n; ++i) {
      weights[i] = ExpFp32(g[i][c] - max);
      sum += weights[i];
    }
    // Sums of 16, then their sum: a chain of 128 roundings would show in the stored entry.
    float value = 0.0F;
    float part = 0.0F;
    for (int64_t i = 0; i < n; ++i) {
      part += weights[i] / sum * a[i][c];
      if (i % 16 == 15) {
        value += part;
        part = 0.0F;
      }
    }
    out[c] = value + part;
  }
}

void Compressor::SaveCarry(const Source& source, const SequenceRows& rows, KvLayout::CarryOffsets carry) const {
  const int64_t n_total = rows.n_total();
  const int64_t n_windows = n_total / ratio_;
  auto* carry_rows = reinterpret_cast<float*>(rows.state + carry.rows);
  if (ratio_ == 4 && n_windows > rows.n_past / ratio_) {
    auto* previous = reinterpret_cast<float*>(rows.state + carry.previous);
    const auto half_bytes = static_cast<size_t>(d_) * sizeof(float);
    for (int64_t i = 0; i < ratio_; ++i) {
      const int64_t position = (n_windows - 1) * ratio_ + i;
      std::memcpy(previous + i * d_, source.A(position), half_bytes);
      std::memcpy(previous + (ratio_ + i) * d_, source.G(position), half_bytes);
    }
  }
  const auto row_bytes = static_cast<size_t>(source.width) * sizeof(float);
  for (int64_t position = std::max(n_windows * ratio_, rows.n_past); position < n_total; ++position) {
    const int64_t row = position % ratio_;
    std::memcpy(carry_rows + row * source.width, source.A(position), row_bytes);
    std::memcpy(carry_rows + (ratio_ + row) * source.width, source.G(position), row_bytes);
  }
}

}  // namespace longshelf::engine
