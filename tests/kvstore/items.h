#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kvstore/client.h"
#include "objects.h"

// Objects of objects.h as a client takes and names them.
namespace longshelf::kvstore {

inline PutItem ItemOf(const Object& object, uint32_t n_replicas = 1, Ack ack = Ack::kMemoryOne) {
  PutItem item{object.head, std::make_shared<const std::vector<std::byte>>(object.payload)};
  item.n_replicas = n_replicas;
  item.ack = ack;
  return item;
}

inline std::vector<ObjectKey> KeysOf(const std::vector<PlacedKey>& placed) {
  std::vector<ObjectKey> keys;
  for (const PlacedKey& one : placed) keys.push_back(one.key);
  return keys;
}

inline GetItem WantOf(const Object& object) { return {object.head.key, object.payload.size(), object.head.extent}; }

}  // namespace longshelf::kvstore
