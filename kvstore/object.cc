#include "kvstore/object.h"

#include <xxhash.h>

#include <cstring>

namespace longshelf::kvstore {

Digest DigestOf(std::span<const std::byte> payload) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(payload.data(), payload.size()));
  Digest digest;
  static_assert(sizeof canonical.digest == sizeof digest);
  std::memcpy(digest.data(), canonical.digest, digest.size());
  return digest;
}

}  // namespace longshelf::kvstore
