#pragma once

#include <string>

#include "kvstore/object.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {

template <typename Array>
std::string Bytes(const Array& array) {
  return {reinterpret_cast<const char*>(array.data()), array.size()};
}

inline std::string KeyBytes(const ObjectKey& key) { return Bytes(key.hash) + static_cast<char>(key.kind); }

inline std::string PlacedKeyBytes(const ObjectKey& key, const BlockKey& extent = {}) {
  return KeyBytes(key) + Bytes(extent);
}

// Of a cached object. Written down once more for the tests: what the product sends must be this.
inline void FillOpenedHead(const ObjectHead& head, v1::ObjectHead* wire) {
  wire->set_key(KeyBytes(head.key));
  wire->set_parent(Bytes(head.parent));
  wire->set_depth_tokens(head.depth_tokens);
  wire->set_fingerprint(Bytes(head.fingerprint));
  wire->set_payload_bytes(head.payload_bytes);
  wire->set_namespace_id(head.namespace_id);
  wire->set_extent(Bytes(head.extent));
}

inline void FillHead(const ObjectHead& head, v1::ObjectHead* wire) {
  FillOpenedHead(head, wire);
  wire->set_xxh3_128(Bytes(head.digest));
}

}  // namespace longshelf::kvstore
