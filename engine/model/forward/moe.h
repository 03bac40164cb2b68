#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/expert_transport.h"
#include "ops.h"
#include "taps.h"

namespace longshelf::engine {

// Mixture of experts of one layer (model.py: Gate, Expert, MoE; docs/numerics.md has the order of sums). Routing and
// input quantisation happen once, here, at the token's home shard.
class Moe {
 public:
  Moe(const MoeWeights& weights, bool hash_routed) : weights_(weights), hash_routed_(hash_routed) {}

  // x: [n, D] normed; tokens: [n]. y: [n, D]. Collective over the shard group.
  absl::Status Run(Ops& ops, ExpertTransport& transport, const float* x, std::span<const uint32_t> tokens, int64_t n,
                   float* y, const Tapper& taps) const;

 private:
  void Route(Ops& ops, const float* x, std::span<const uint32_t> tokens, int64_t n,
             std::vector<ExpertAssignment>& assignments, const Tapper& taps) const;
  void RunExperts(Ops& ops, const std::vector<DispatchedRow>& rows, std::byte* results) const;
  void RunShared(Ops& ops, const float* x, int64_t n, float* out) const;

  const MoeWeights& weights_;
  const bool hash_routed_;
};

}  // namespace longshelf::engine
