#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/time.h"

namespace longshelf::kvstore {

// Which generations of which namespaces are deleted, so that nobody who has not heard of it brings their objects back.
// Bounded, and only for some time: by then everybody has.
// Owner: the store, under its mutex.
class RetiredNamespaces {
 public:
  static constexpr size_t kNamesMax = 100'000;

  explicit RetiredNamespaces(size_t n_names_max = kNamesMax) : n_names_max_(n_names_max) {}

  // Generations of the name, and of its users, before this one are deleted. True when all of them were already, and
  // are gone from the disk too.
  bool Add(const std::string& name, uint64_t generation, absl::Time now, absl::Time until);
  // The disk has forgotten them for good.
  void SetGone(const std::string& name, uint64_t generation);

  bool Covers(std::string_view id, absl::Time now) const;
  size_t size() const { return names_.size(); }

 private:
  struct Retired {
    uint64_t generation = 0;
    absl::Time until;
    bool is_gone = false;
  };
  using Names = std::map<std::string, Retired, std::less<>>;

  bool Covers(std::string_view name, uint64_t generation, absl::Time now) const;
  void Erase(Names::iterator it);

  const size_t n_names_max_;
  Names names_;
  std::set<std::pair<absl::Time, std::string>> by_time_;
};

}  // namespace longshelf::kvstore
