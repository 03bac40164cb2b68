#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace longshelf::engine {

// Opaque to the engine: what names a prefix. Computed by a PrefixHasher that the worker injects.
using PrefixKey = std::array<uint8_t, 32>;

// Names prefixes. Pure; called on the engine thread.
class PrefixHasher {
 public:
  virtual ~PrefixHasher() = default;
  virtual PrefixKey Root(std::string_view namespace_salt) const = 0;
  // Key of a full block (kBlockTokens tokens) or of a shorter tail, given its parent's key.
  virtual PrefixKey Next(const PrefixKey& parent, std::span<const uint32_t> tokens) const = 0;
};

}  // namespace longshelf::engine
