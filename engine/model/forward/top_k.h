#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel_table.h"

namespace longshelf::engine {

// The scratch of one call.
int64_t TopKScratchBytes(int64_t k);

// Indices of the k largest of n > k scores, ascending; equal scores: the lower index. -0 equals 0.
void TopK(const KernelTable& kernels, const float* scores, int64_t n, int64_t k, int32_t* out, std::byte* scratch);

}  // namespace longshelf::engine
