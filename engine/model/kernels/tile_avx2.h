#pragma once

#include "dot_split.h"

// A tile of decoded rows with AVX2: sixteen lanes are two registers, and the tile that feeds both multipliers fills all
// sixteen registers with one half of the lanes. So the lower and the upper lanes are summed one after the other.
namespace longshelf::engine {
namespace {

// Operands are held in registers: the compiler would load them again for every product, and loads would be the limit.
// Steps [begin, end) onto eight lanes, from `lane` on, of sums [kX][kRows], which lie x_gap and kLanes floats apart.
template <int kRows, int kX>
inline void AddHalf(const DecodedSplit* w, const float* x, int64_t x_stride, int64_t begin, int64_t end, int64_t lane,
                    float* sums, int64_t x_gap) {
  __m256 sum[kX][kRows];
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) sum[i][r] = _mm256_loadu_ps(sums + i * x_gap + r * kLanes + lane);
  }
  // Odd columns, then even ones.
  for (int64_t at = begin * kStepColumns + lane; at < end * kStepColumns; at += kLanes) {
    __m256 values[kX];
    LONGSHELF_UNROLL
    for (int i = 0; i < kX; ++i) {
      values[i] = _mm256_loadu_ps(x + i * x_stride + at);
      asm("" : "+x"(values[i]));
    }
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      __m256 weight = _mm256_loadu_ps(w[r].values + at);
      asm("" : "+x"(weight));
      LONGSHELF_UNROLL
      for (int i = 0; i < kX; ++i) sum[i][r] = _mm256_fmadd_ps(weight, values[i], sum[i][r]);
    }
  }
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) _mm256_storeu_ps(sums + i * x_gap + r * kLanes + lane, sum[i][r]);
  }
}

// A function of its own: inside a large one the compiler leaves the operands in memory.
template <int kRows, int kX>
[[gnu::noinline]] void AddSteps(DecodedSplit* w, const float* x, int64_t x_stride, int64_t begin, int64_t end,
                                F (&sum)[kX][kRows]) {
  float sums[kX * kRows * kLanes];
  for (int i = 0; i < kX * kRows; ++i) Store(sum[i / kRows][i % kRows], sums + i * kLanes);
  for (int64_t lane = 0; lane < kLanes; lane += kLanes / 2) {
    AddHalf<kRows, kX>(w, x, x_stride, begin, end, lane, sums, kRows * kLanes);
  }
  for (int i = 0; i < kX * kRows; ++i) sum[i / kRows][i % kRows] = Load(sums + i * kLanes);
}

template <int kX>
inline void AddBlock(DecodedSplit* w, const float* x, int64_t x_stride, int64_t steps, float* sums) {
  AddHalf<kTileRows, kX>(w, x, x_stride, 0, steps, 0, sums, kBlockRows * kLanes);
  AddHalf<kTileRows, kX>(w, x, x_stride, 0, steps, kLanes / 2, sums, kBlockRows * kLanes);
}

}  // namespace
}  // namespace longshelf::engine
