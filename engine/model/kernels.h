#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/weights.h"

// The vector kernels, one table per instruction set, chosen once at start.
//
// Bits are defined without reference to a vector width: a dot product is 16 interleaved chains of fused multiply-adds
// (chain j takes elements j, j+16, ..., in order) folded by a fixed tree (j with j+8, +4, +2, +1). Every instruction
// set computes exactly that, for every tile shape, so results depend neither on the machine nor on the rows computed
// together.
namespace longshelf::engine {

inline constexpr int64_t kLanes = 16;

constexpr int64_t RoundUpToLanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

struct KernelTable {
  const char* isa;
  // out: [cols] fp32 values of row `row`; out[cols, RoundUpToLanes(cols)) is zeroed.
  void (*decode_row)(const Matrix& m, int64_t row, float* out);
  // y[i * y_stride + j] = dot(x row i, w row j). x: [m, x_stride], w: [n, k]; k is a multiple of kLanes.
  void (*matmul)(const float* x, int64_t m, int64_t x_stride, const float* w, int64_t n, int64_t k, float* y,
                 int64_t y_stride);
  float (*dot)(const float* a, const float* b, int64_t n);
  // out[c] = out[c] * rescale + sum over i ascending of p[i] * rows[i][c], one fused chain per channel.
  void (*weighted_sum)(const float* p, const float* const* rows, int64_t n_rows, int64_t width, float rescale,
                       float* out);
  // acc[h * kLanes + j] = one fused chain over c ascending of q[h * width + c] * keys[c * kLanes + j].
  // keys: [width, kLanes], sixteen index keys side by side.
  void (*index_dots)(const float* q, int64_t n_heads, int64_t width, const float* keys, float* acc);
};

// Instruction sets this machine can run, best first ("avx512", "avx2"). Empty when it has not even AVX2 and FMA.
std::vector<std::string> AvailableKernels();
// The table for one of AvailableKernels(); the best one for "". Null for anything else.
const KernelTable* FindKernels(std::string_view isa);

}  // namespace longshelf::engine
