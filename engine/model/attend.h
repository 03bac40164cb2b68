#pragma once

#include <cstdint>
#include <span>

#include "ops.h"

namespace longshelf::engine {

// One query over its keys, which are also its values: softmax with a per-head sink in the denominator (spec section 3).
// q, out: [n_heads, width]; p: scratch of keys.size(). Keys are taken in the order given. out is rounded.
void AttendKeys(const KernelTable& kernels, Numerics numerics, const float* q, int64_t n_heads, int64_t width,
                std::span<const float* const> keys, std::span<const float> sink, std::span<float> p, float* out);

}  // namespace longshelf::engine
