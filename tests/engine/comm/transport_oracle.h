#pragma once

#include <cstdint>
#include <string>

#include "engine/comm/communicator.h"

namespace longshelf::testing {

// Runs `n_rounds` random routings through an MpiExpertTransport over `communicator`; every member knows every other's
// routing from the seed and compares what it received, in order, and the combined sums with a direct computation, bit
// for bit. Returns what differed first, or nothing.
std::string CompareWithDirectSum(engine::Communicator& communicator, uint64_t seed, int n_rounds);

}  // namespace longshelf::testing
