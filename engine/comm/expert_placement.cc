#include "engine/comm/expert_placement.h"

#include <algorithm>

#include "common/check.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

ExpertPlacement::ExpertPlacement(uint32_t n_layers, uint32_t n_experts, int n_ranks,
                                 std::vector<std::vector<uint16_t>> holders)
    : n_layers_(n_layers), n_experts_(n_experts), n_ranks_(n_ranks), holders_(std::move(holders)) {
  LONGSHELF_CHECK(holders_.size() == size_t{n_layers} * n_experts && n_experts <= UINT16_MAX);
  for (const std::vector<uint16_t>& of_expert : holders_) {
    LONGSHELF_CHECK(!of_expert.empty() && of_expert.back() < n_ranks &&
                    std::is_sorted(of_expert.begin(), of_expert.end()));
  }
}

ExpertPlacement ExpertPlacement::Even(uint32_t n_layers, uint32_t n_experts, int n_ranks) {
  std::vector<std::vector<uint16_t>> holders(size_t{n_layers} * n_experts);
  for (int r = 0; r < n_ranks; ++r) {
    for (uint32_t e = FirstExpertOf(r, n_experts, n_ranks); e < FirstExpertOf(r + 1, n_experts, n_ranks); ++e) {
      for (uint32_t l = 0; l < n_layers; ++l) holders[size_t{l} * n_experts + e] = {static_cast<uint16_t>(r)};
    }
  }
  return {n_layers, n_experts, n_ranks, std::move(holders)};
}

bool ExpertPlacement::Holds(int rank, uint32_t layer, uint32_t expert) const {
  const std::span<const uint16_t> all = holders(layer, expert);
  return std::find(all.begin(), all.end(), static_cast<uint16_t>(rank)) != all.end();
}

ExpertRoutes::ExpertRoutes(const ExpertPlacement& placement, uint32_t layer, const HostMap& hosts, int rank)
    : rank_(rank), choices_(placement.n_experts()), held_(placement.n_experts()) {
  for (uint32_t e = 0; e < placement.n_experts(); ++e) {
    const std::span<const uint16_t> all = placement.holders(layer, e);
    held_[e] = placement.Holds(rank, layer, e);
    const size_t first = ranks_.size();
    if (held_[e]) {
      ranks_.push_back(static_cast<uint16_t>(rank));
    } else {
      for (const uint16_t r : all) {
        if (hosts.host_of(r) == hosts.host_of(rank)) ranks_.push_back(r);
      }
      if (ranks_.size() == first) ranks_.insert(ranks_.end(), all.begin(), all.end());
    }
    choices_[e] = {ranks_[first], static_cast<uint16_t>(ranks_.size() - first), static_cast<uint32_t>(first)};
  }
}

}  // namespace longshelf::engine
