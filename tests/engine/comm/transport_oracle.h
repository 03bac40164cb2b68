#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/comm/communicator.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/expert_transport.h"
#include "engine/comm/host_map.h"

namespace longshelf::testing {

// Of a group member, for a model of so many experts.
using MakeTransport =
    std::function<std::unique_ptr<engine::ExpertTransport>(engine::Communicator& communicator, uint32_t n_experts)>;

// For the transport under test: buffers for the most that a round sends.
engine::DirectTransportOptions DirectOptionsForRounds(uint32_t n_experts);

// Runs `n_rounds` random routings through a transport over `communicator`; every member knows every other's routing
// from the seed and compares what it received, in order, and the combined sums with a direct computation, bit for bit.
// Experts lie evenly, anywhere, or on several shards each. Returns what differed first, or nothing.
std::string CompareWithDirectSum(engine::Communicator& communicator, const MakeTransport& make, uint64_t seed,
                                 int n_rounds, const engine::HostMap& hosts);
// The same with the baseline.
std::string CompareWithDirectSum(engine::Communicator& communicator, uint64_t seed, int n_rounds);

}  // namespace longshelf::testing
