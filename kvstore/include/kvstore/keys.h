#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace longshelf::kvstore {

// 32 bytes of SHA-256: names a token prefix under a model fingerprint and a namespace.
using BlockKey = std::array<uint8_t, 32>;

// h_-1 = SHA256("dsv4kv/1" | fingerprint | u64le(salt length) | namespace_salt)
BlockKey ChainRoot(const std::array<uint8_t, 32>& fingerprint, std::string_view namespace_salt);

// h_i = SHA256(u64le(32) | h_{i-1} | u64le(4 * n) | u32le tokens). Used for full blocks and for shorter tails alike.
BlockKey ChainNext(const BlockKey& parent, std::span<const uint32_t> tokens);

// A chain is cut into extents: runs of tokens whose objects are placed together. Each is named by the key of the block
// it begins after, which is the root for the first: who has the chain, or its part up to there, can name it.
inline constexpr uint64_t kChainBlockTokens = 256;
inline constexpr uint64_t kExtentTokens = 64 << 10;
inline constexpr size_t kExtentBlocks = kExtentTokens / kChainBlockTokens;

// The extent that an object of depth `depth_tokens`, 1 or more, lies in.
// REQUIRES: `blocks`, keys of full blocks from the first on, reach the beginning of the extent.
const BlockKey& ExtentOf(const BlockKey& root, std::span<const BlockKey> blocks, uint64_t depth_tokens);

// HMAC-SHA256(tenant_secret, namespace_id): the salt of a tenant's chain.
std::array<uint8_t, 32> NamespaceSalt(std::string_view tenant_secret, std::string_view namespace_id);

}  // namespace longshelf::kvstore
