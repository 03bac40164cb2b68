#pragma once

#include <array>
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

// HMAC-SHA256(tenant_secret, namespace_id): the salt of a tenant's chain.
std::array<uint8_t, 32> NamespaceSalt(std::string_view tenant_secret, std::string_view namespace_id);

}  // namespace longshelf::kvstore
