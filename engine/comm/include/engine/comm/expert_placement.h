#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/comm/host_map.h"

namespace longshelf::engine {

// Which shards hold each expert of each MoE layer. A value: every shard of a group has the same one. It decides where
// a pair is computed and never what comes of it, as results are added in the order of expert ids.
class ExpertPlacement {
 public:
  // Contiguous shares that differ by at most one expert: what FirstExpertOf() says, on every layer.
  static ExpertPlacement Even(uint32_t n_layers, uint32_t n_experts, int n_ranks);
  // holders: [n_layers * n_experts], each not empty, ascending and below n_ranks.
  ExpertPlacement(uint32_t n_layers, uint32_t n_experts, int n_ranks, std::vector<std::vector<uint16_t>> holders);

  uint32_t n_layers() const { return n_layers_; }
  uint32_t n_experts() const { return n_experts_; }
  int n_ranks() const { return n_ranks_; }
  // Ascending.
  std::span<const uint16_t> holders(uint32_t layer, uint32_t expert) const {
    return holders_[size_t{layer} * n_experts_ + expert];
  }
  bool Holds(int rank, uint32_t layer, uint32_t expert) const;
  bool operator==(const ExpertPlacement&) const = default;

 private:
  uint32_t n_layers_;
  uint32_t n_experts_;
  int n_ranks_;
  std::vector<std::vector<uint16_t>> holders_;
};

// One layer's placement as one shard uses it: its own experts here, others on its host if they are there, or else with
// whoever holds them, spread by token.
class ExpertRoutes {
 public:
  ExpertRoutes(const ExpertPlacement& placement, uint32_t layer, const HostMap& hosts, int rank);

  uint32_t n_experts() const { return static_cast<uint32_t>(choices_.size()); }
  int rank() const { return rank_; }
  bool Holds(uint32_t expert) const { return expert < held_.size() && held_[expert]; }
  uint16_t Choose(uint32_t expert, uint32_t token) const {
    const Choice& choice = choices_[expert];
    return choice.n == 1 ? choice.rank : ranks_[choice.first + Spread(token) % choice.n];
  }

 private:
  struct Choice {
    uint16_t rank;
    uint16_t n;
    uint32_t first;  // of ranks_
  };
  // A multiplication and its upper half: neighbouring tokens go to different shards.
  static uint32_t Spread(uint32_t token) { return static_cast<uint32_t>((token * 0x9E3779B97F4A7C15ULL) >> 32); }

  int rank_;
  std::vector<Choice> choices_;  // by expert
  std::vector<uint16_t> ranks_;
  std::vector<bool> held_;
};

}  // namespace longshelf::engine
