#pragma once

#include <algorithm>
#include <cstring>

#include "kvstore/queries.h"

// Which hashes a ListQuery means. They are a range: whoever holds them in order starts at the first and stops at the
// first that is not meant.
namespace longshelf::kvstore {

// No listed hash is smaller.
inline BlockKey FirstListed(const ListQuery& query) {
  BlockKey first{};
  std::memcpy(first.data(), query.hash_prefix.data(), std::min(query.hash_prefix.size(), first.size()));
  return std::max(first, query.after);
}

inline bool IsListed(const ListQuery& query, const BlockKey& hash) {
  return (query.after == BlockKey{} || hash > query.after) &&
         std::memcmp(hash.data(), query.hash_prefix.data(), query.hash_prefix.size()) == 0;
}

}  // namespace longshelf::kvstore
