#pragma once

#include <cstdint>

namespace longshelf::engine {

// x = x H / sqrt(n), H in Sylvester order, n a power of two; in place, not rounded.
void Hadamard(float* x, int64_t n);

}  // namespace longshelf::engine
