#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kvstore/object.h"

namespace longshelf::kvstore {

// A hash made of a number: readable in failures and unequal for unequal numbers.
inline BlockKey Hash(uint64_t id) {
  BlockKey hash{};
  std::memcpy(hash.data(), &id, sizeof id);
  return hash;
}

inline ObjectKey BlockKeyOf(uint64_t id) { return {Hash(id), ObjectKind::kBlock}; }

inline Fingerprint FingerprintOf(uint8_t id) {
  Fingerprint fingerprint{};
  fingerprint[0] = id;
  return fingerprint;
}

inline std::vector<std::byte> RandomBytes(uint64_t seed, size_t n) {
  std::mt19937_64 generator(seed);
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
    const uint64_t word = generator();
    std::memcpy(bytes.data() + i, &word, std::min(sizeof word, n - i));
  }
  return bytes;
}

struct Object {
  ObjectHead head;
  std::vector<std::byte> payload;
};

// A block of fingerprint 1 and namespace "ns".
inline Object MakeObject(uint64_t id, uint64_t parent, uint32_t depth, size_t n_bytes,
                         ObjectKind kind = ObjectKind::kBlock) {
  Object object;
  object.payload = RandomBytes(id * 16 + static_cast<uint64_t>(kind), n_bytes);
  object.head.key = {Hash(id), kind};
  object.head.parent = Hash(parent);
  object.head.depth_tokens = depth;
  object.head.fingerprint = FingerprintOf(1);
  object.head.payload_bytes = n_bytes;
  object.head.digest = DigestOf(object.payload);
  object.head.namespace_id = "ns";
  return object;
}

inline Object Parked(Object object, absl::Time until) {
  object.head.object_class = ObjectClass::kParked;
  object.head.retain_until = until;
  return object;
}

}  // namespace longshelf::kvstore
