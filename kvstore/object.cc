#include "kvstore/object.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvstore/queries.h"
#include "xxh3.h"

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

absl::Status CheckHead(const ObjectHead& head) {
  if (!IsObjectKind(static_cast<uint8_t>(head.key.kind))) return absl::InvalidArgumentError("key: unknown object kind");
  if (head.payload_bytes == 0 || head.payload_bytes > kMaxPayloadBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("payload_bytes: ", head.payload_bytes, " is not in 1 .. ", kMaxPayloadBytes));
  }
  if (head.depth_tokens == 0 || head.depth_tokens > kMaxDepthTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("depth_tokens: ", head.depth_tokens, " is not in 1 .. ", kMaxDepthTokens));
  }
  if (head.namespace_id.empty() || head.namespace_id.size() > kMaxNamespaceBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_id: ", head.namespace_id.size(), " bytes, must be 1 .. ", kMaxNamespaceBytes));
  }
  if (head.object_class != ObjectClass::kCache && head.object_class != ObjectClass::kParked) {
    return absl::InvalidArgumentError("object_class: unknown");
  }
  return absl::OkStatus();
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
