#include "kvstore/object.h"

#include <xxhash.h>

#include <cstring>

#include "kvstore/queries.h"

namespace longshelf::kvstore {

StoreStats& StoreStats::operator+=(const StoreStats& other) {
  capacity_bytes += other.capacity_bytes;
  used_bytes += other.used_bytes;
  reserved_bytes += other.reserved_bytes;
  parked_bytes += other.parked_bytes;
  parked_limit_bytes += other.parked_limit_bytes;
  n_objects += other.n_objects;
  n_reservations += other.n_reservations;
  n_hits += other.n_hits;
  n_misses += other.n_misses;
  n_evicted += other.n_evicted;
  n_quarantined += other.n_quarantined;
  return *this;
}

Digest DigestOf(std::span<const std::byte> payload) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(payload.data(), payload.size()));
  Digest digest;
  static_assert(sizeof canonical.digest == sizeof digest);
  std::memcpy(digest.data(), canonical.digest, digest.size());
  return digest;
}

}  // namespace longshelf::kvstore
