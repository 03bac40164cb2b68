#pragma once

#include "dot_split.h"

// A tile of decoded rows with AVX2: sixteen lanes are two registers, and the tile that feeds both multipliers fills all
// sixteen registers with one half of the lanes. So the lower and the upper lanes are summed one after the other.
namespace longshelf::engine {
namespace {

template <int kRows, int kX>
inline void SumHalf(const DecodedSplit* w, const float* x, int64_t x_stride, int64_t steps, int64_t lane,
                    __m256 (&sum)[kX][kRows]) {
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) sum[i][r] = _mm256_setzero_ps();
  }
  for (int64_t at = lane; at < steps * kStepColumns; at += kLanes) {  // odd columns, then even ones
    __m256 values[kX];
    LONGSHELF_UNROLL
    for (int i = 0; i < kX; ++i) values[i] = _mm256_loadu_ps(x + i * x_stride + at);
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m256 weight = _mm256_loadu_ps(w[r].values + at);
      LONGSHELF_UNROLL
      for (int i = 0; i < kX; ++i) sum[i][r] = _mm256_fmadd_ps(weight, values[i], sum[i][r]);
    }
  }
}

template <int kRows, int kX>
inline void SumTile(DecodedSplit* w, const float* x, int64_t x_stride, int64_t steps, F (&sum)[kX][kRows]) {
  __m256 half[kX][kRows];
  SumHalf<kRows, kX>(w, x, x_stride, steps, 0, half);
  for (int i = 0; i < kX; ++i) {
    for (int r = 0; r < kRows; ++r) sum[i][r].lo = half[i][r];
  }
  SumHalf<kRows, kX>(w, x, x_stride, steps, kLanes / 2, half);
  for (int i = 0; i < kX; ++i) {
    for (int r = 0; r < kRows; ++r) sum[i][r].hi = half[i][r];
  }
}

}  // namespace
}  // namespace longshelf::engine
