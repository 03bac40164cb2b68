#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/weights.h"

// The vector kernels, one table per instruction set, chosen once at start.
//
// Bits are defined without reference to a vector width, a tile or a thread: every sum below is a fixed set of chains of
// fused multiply-adds in a fixed order. Every instruction set computes exactly that, so results depend neither on the
// machine nor on the rows computed together.
namespace longshelf::engine {

inline constexpr int64_t kLanes = 16;

constexpr int64_t RoundUpToLanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Most columns of one chain of a matrix product: keeps long sums accurate.
inline constexpr int64_t kSumBlock = 384;

// Columns of the next chain when `rest` columns are left: full blocks, and the last two even. The usual blocking of a
// single precision product, so that sums in plain fp32 round as they do elsewhere.
constexpr int64_t NextSumBlock(int64_t rest) {
  if (rest >= 2 * kSumBlock) return kSumBlock;
  return rest > kSumBlock ? RoundUpToLanes((rest + 1) / 2) : rest;
}

struct KernelTable {
  const char* isa;
  // out: [cols] fp32 values of row `row`; needs room for RoundUpToLanes(cols).
  void (*decode_row)(const Matrix& m, int64_t row, float* out);
  // y[i * y_stride + j] = sum over blocks of columns (NextSumBlock), in order, of one chain over c ascending of
  // x[i * x_stride + c] * w[c * kLanes + j], for j < n <= kLanes. x: [m, k]; w: [k, kLanes], kLanes weight rows side by
  // side (spare ones zero).
  void (*matmul)(const float* x, int64_t m, int64_t x_stride, const float* w, int64_t n, int64_t k, float* y,
                 int64_t y_stride);
  // Sum of x[i]^2: each square rounded, added to accumulator i % 32; accumulators are emptied into a second set after
  // every 16 additions (and those into a third after every 256, into a fourth after every 4096), which keeps the error
  // of long rows small; the 32 are folded 8 lanes at a time, then lane by lane.
  float (*sum_squares)(const float* x, int64_t n);
  // out[c] = out[c] * rescale + one chain over i ascending of p[i] * rows[i * width + c].
  void (*weighted_sum)(const float* p, const float* rows, int64_t n_rows, int64_t width, float rescale, float* out);
  // acc[h * kLanes + j] = one fused chain over c ascending of q[h * width + c] * keys[c * kLanes + j].
  // keys: [width, kLanes], sixteen index keys side by side.
  void (*index_dots)(const float* q, int64_t n_heads, int64_t width, const float* keys, float* acc);
};

// Instruction sets this machine can run, best first ("avx512", "avx2"). Empty when it has not even AVX2 and FMA.
std::vector<std::string> AvailableKernels();
// The table for one of AvailableKernels(); the best one for "". Null for anything else.
const KernelTable* FindKernels(std::string_view isa);

}  // namespace longshelf::engine
