#include "engine/comm/host_map.h"

#include <algorithm>

namespace longshelf::engine {

HostMap::HostMap(std::span<const std::string> keys, std::span<const std::string> names) {
  first_rank_.clear();
  names_.clear();
  std::vector<std::string> seen;
  for (size_t r = 0; r < keys.size(); ++r) {
    const auto at = std::find(seen.begin(), seen.end(), keys[r]);
    host_of_.push_back(static_cast<int>(at - seen.begin()));
    if (at != seen.end()) continue;
    seen.push_back(keys[r]);
    first_rank_.push_back(static_cast<int>(r));
    names_.push_back(names[r]);
  }
}

std::vector<int> HostMap::RanksOf(int host) const {
  std::vector<int> out;
  for (int r = 0; r < n_ranks(); ++r) {
    if (host_of(r) == host) out.push_back(r);
  }
  return out;
}

}  // namespace longshelf::engine
