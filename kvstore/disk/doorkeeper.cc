#include "doorkeeper.h"

#include <cstring>

namespace longshelf::kvstore::disk {

bool Doorkeeper::Admit(const ObjectKey& key) {
  uint64_t word = 0;
  std::memcpy(&word, key.hash.data(), sizeof word);
  word = word * 4 + static_cast<uint64_t>(key.kind);
  if (young_.contains(word) || old_.contains(word)) return true;
  young_.insert(word);
  if (young_.size() >= n_keys_max_) {
    old_ = std::exchange(young_, {});
  }
  return false;
}

}  // namespace longshelf::kvstore::disk
