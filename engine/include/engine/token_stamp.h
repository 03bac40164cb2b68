#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "engine/model/kv_layout.h"

namespace longshelf::engine {

// XXH3-128 of a namespace salt and all tokens up to a block boundary, big end first. It owes nothing to prefix keys:
// two prefixes whose keys collide differ here.
using TokenDigest = std::array<uint8_t, 16>;

TokenDigest DigestOfSalt(std::string_view namespace_salt);
// Behind the tokens of one more block.
TokenDigest ExtendDigest(const TokenDigest& before, std::span<const uint32_t> tokens);

// What a piece of KV is of: compared whenever its key says that it fits, so that two prefixes under one key are a miss
// and never a wrong reuse.
struct TokenStamp {
  TokenDigest before{};              // of everything before `tokens`; they begin at a block boundary
  std::span<const uint32_t> tokens;  // a block's; a tail's or checkpoint's since the last full block
};

// The last bytes of every ParkedObject, little-endian: u32 version (1), u32 n_tokens, TokenDigest, u32 tokens
// [kBlockTokens], zero past n_tokens. Part of the KV fingerprint (KvLayout::Describe).
inline constexpr size_t kStampBytes = 24 + 4 * static_cast<size_t>(kBlockTokens);

using EncodedStamp = std::array<std::byte, kStampBytes>;

// REQUIRES: at most kBlockTokens tokens.
EncodedStamp EncodeStamp(const TokenStamp& stamp);
// The last bytes of `payload`. REQUIRES: at least kStampBytes.
EncodedStamp StampOf(std::span<const std::byte> payload);
// What comes before the stamp. REQUIRES: at least kStampBytes.
inline std::span<const std::byte> WithoutStamp(std::span<const std::byte> payload) {
  return payload.first(payload.size() - kStampBytes);
}

}  // namespace longshelf::engine
