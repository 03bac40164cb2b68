#pragma once

#include <cstdint>

namespace longshelf::engine {

// Indices of the k largest of n > k scores, ascending; equal scores: the lower index. -0 equals 0.
void TopK(const float* scores, int64_t n, int64_t k, int32_t* out);

}  // namespace longshelf::engine
