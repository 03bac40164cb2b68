#include "placement.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

namespace longshelf::kvstore {
namespace {

// Of a node for an extent: the highest wins.
double Score(uint64_t seed, double weight, const BlockKey& extent) {
  const uint64_t hash = XXH3_64bits_withSeed(extent.data(), extent.size(), seed);
  // 53 bits, as a double holds them, in (0, 1).
  const double uniform = (static_cast<double>(hash >> 11) + 0.5) * 0x1p-53;
  return -weight / std::log(uniform);
}

}  // namespace

Placement::Placement(const std::vector<Member>& members) {
  std::map<std::string, size_t> zones;
  for (const Member& member : members) {
    const std::string zone = member.zone.empty() ? "\n" + member.address : member.zone;
    const size_t number = zones.emplace(zone, zones.size()).first->second;
    nodes_.push_back(
        {.seed = XXH3_64bits(member.address.data(), member.address.size()), .weight = member.weight, .zone = number});
  }
  n_zones_ = zones.size();
}

std::vector<size_t> Placement::Candidates(const BlockKey& extent, size_t n) const {
  std::vector<std::pair<double, size_t>> ranked;
  for (size_t i = 0; i < nodes_.size(); ++i) ranked.emplace_back(-Score(nodes_[i].seed, nodes_[i].weight, extent), i);
  std::sort(ranked.begin(), ranked.end());
  std::vector<size_t> chosen;
  std::vector<bool> zone_taken(n_zones_);
  // One round takes the best node of each zone; the next begins when every zone has had its turn.
  while (chosen.size() < n && !ranked.empty()) {
    const auto next = std::find_if(ranked.begin(), ranked.end(),
                                   [&](const auto& node) { return !zone_taken[nodes_[node.second].zone]; });
    if (next == ranked.end()) {
      zone_taken.assign(n_zones_, false);
      continue;
    }
    zone_taken[nodes_[next->second].zone] = true;
    chosen.push_back(next->second);
    ranked.erase(next);
  }
  return chosen;
}

}  // namespace longshelf::kvstore
