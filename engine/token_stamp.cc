#include "engine/token_stamp.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

#include "common/check.h"

namespace longshelf::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are hashed and stamped as they lie in memory");

constexpr uint32_t kStampVersion = 1;

TokenDigest Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  TokenDigest out;
  std::memcpy(out.data(), canonical.digest, out.size());
  return out;
}

}  // namespace

TokenDigest DigestOfSalt(std::string_view namespace_salt) {
  return Canonical(XXH3_128bits(namespace_salt.data(), namespace_salt.size()));
}

TokenDigest ExtendDigest(const TokenDigest& before, std::span<const uint32_t> tokens) {
  LONGSHELF_CHECK(tokens.size() == static_cast<size_t>(kBlockTokens));
  std::array<std::byte, sizeof(TokenDigest) + 4 * static_cast<size_t>(kBlockTokens)> input;
  std::memcpy(input.data(), before.data(), before.size());
  std::memcpy(input.data() + before.size(), tokens.data(), tokens.size_bytes());
  return Canonical(XXH3_128bits(input.data(), input.size()));
}

EncodedStamp EncodeStamp(const TokenStamp& stamp) {
  LONGSHELF_CHECK(stamp.tokens.size() <= static_cast<size_t>(kBlockTokens));
  EncodedStamp out{};
  const auto n_tokens = static_cast<uint32_t>(stamp.tokens.size());
  std::memcpy(out.data(), &kStampVersion, sizeof kStampVersion);
  std::memcpy(out.data() + 4, &n_tokens, sizeof n_tokens);
  std::memcpy(out.data() + 8, stamp.before.data(), stamp.before.size());
  if (n_tokens > 0) std::memcpy(out.data() + 24, stamp.tokens.data(), stamp.tokens.size_bytes());
  return out;
}

EncodedStamp StampOf(std::span<const std::byte> payload) {
  LONGSHELF_CHECK(payload.size() >= kStampBytes);
  EncodedStamp out;
  std::memcpy(out.data(), payload.data() + payload.size() - kStampBytes, kStampBytes);
  return out;
}

}  // namespace longshelf::engine
