#include "retired_namespaces.h"

#include <algorithm>

#include "kvstore/namespace_id.h"

namespace longshelf::kvstore {

bool RetiredNamespaces::Add(const std::string& name, uint64_t generation, absl::Time now, absl::Time until) {
  while (!by_time_.empty() && by_time_.begin()->first <= now) Erase(names_.find(by_time_.begin()->second));
  auto it = names_.find(name);
  if (it == names_.end()) {
    if (names_.size() >= n_names_max_) Erase(names_.find(by_time_.begin()->second));
    it = names_.emplace(name, Retired{.generation = 0, .until = until}).first;
    by_time_.emplace(until, name);
  }
  Retired& retired = it->second;
  by_time_.erase({retired.until, name});
  retired.until = std::max(retired.until, until);
  by_time_.emplace(retired.until, name);
  if (generation <= retired.generation) return retired.is_gone;
  retired.generation = generation;
  retired.is_gone = false;
  return false;
}

void RetiredNamespaces::SetGone(const std::string& name, uint64_t generation) {
  const auto it = names_.find(name);
  if (it != names_.end() && it->second.generation == generation) it->second.is_gone = true;
}

bool RetiredNamespaces::Covers(std::string_view id, absl::Time now) const {
  if (names_.empty()) return false;
  const NamespaceId parsed = ParseNamespaceId(id);
  return Covers(parsed.name, parsed.generation, now) || Covers(OwnerOf(parsed.name), parsed.generation, now);
}

bool RetiredNamespaces::Covers(std::string_view name, uint64_t generation, absl::Time now) const {
  const auto it = names_.find(name);
  return it != names_.end() && generation < it->second.generation && now < it->second.until;
}

void RetiredNamespaces::Erase(Names::iterator it) {
  by_time_.erase({it->second.until, it->first});
  names_.erase(it);
}

}  // namespace longshelf::kvstore
