#pragma once

#include <cstdint>

#include "engine/model/reference_call.h"
#include "kernels.h"

// The orders of summation that the reference's library chose by the shape of its call (ReferenceCall). Plain code: only
// `verify` runs it.
namespace longshelf::engine {

// Whether the products of a call this short run in lanes.
bool HasSmallProducts(const ReferenceCall& call);
// Whether a row of this many columns is added in two halves.
bool AddsInHalves(const ReferenceCall& call, int64_t cols);
// Whether the rsqrt of this query head rounds twice.
bool RoundsRsqrtTwice(const ReferenceCall& call, int64_t n_heads, int64_t position, int64_t head);

// a . b over n (a multiple of kLanes) as sixteen interleaved chains, folded in fours.
float LaneDot(const float* a, const float* b, int64_t n);

// KernelTable::matmul as the sum over each half of the columns, then their sum.
void MatMulInHalves(const KernelTable& kernels, const float* x, int64_t m, int64_t x_stride, const float* w, int64_t n,
                    int64_t k, float* y, int64_t y_stride);

}  // namespace longshelf::engine
