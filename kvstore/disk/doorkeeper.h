#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_set>
#include <utility>

#include "kvstore/object.h"

namespace longshelf::kvstore::disk {

// Lets a key in when it comes for the second time, so that what is used once, more than half of all blocks, does not
// wear the disk. Remembers two generations of keys and forgets the older whole.
class Doorkeeper {
 public:
  explicit Doorkeeper(size_t n_keys_max) : n_keys_max_(n_keys_max) {}

  bool Admit(const ObjectKey& key);

 private:
  const size_t n_keys_max_;  // of a generation
  std::unordered_set<uint64_t> young_;
  std::unordered_set<uint64_t> old_;
};

}  // namespace longshelf::kvstore::disk
