#pragma once

#include <cstdint>
#include <string>

#include "kernel_table.h"

namespace longshelf::engine {

// Cases of each operation that start-up can afford; tests run many more.
inline constexpr int64_t kStartCases = 48;

// Compares `table` with the portable one, bit for bit, on `n_cases` random cases of every operation: cancellation,
// roundings near a half, denormals, large gaps of exponents, short rows. Empty when all are equal, else the first
// operation that differs and how.
std::string SelfTest(const KernelTable& table, int64_t n_cases, uint64_t seed = 1);

}  // namespace longshelf::engine
