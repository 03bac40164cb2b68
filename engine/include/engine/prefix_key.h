#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace longshelf::engine {

// Opaque to the engine: what names a prefix. Computed by a PrefixHasher that the worker injects.
using PrefixKey = std::array<uint8_t, 32>;

// Names prefixes. Pure; any thread.
class PrefixHasher {
 public:
  virtual ~PrefixHasher() = default;
  virtual PrefixKey Root(std::string_view namespace_salt) const = 0;
  // Key of a full block (kBlockTokens tokens) or of a shorter tail, given its parent's key.
  virtual PrefixKey Next(const PrefixKey& parent, std::span<const uint32_t> tokens) const = 0;
};

// Keys of the full blocks of prompt + committed, in order, for SequenceRequest::prefix_keys.
std::vector<PrefixKey> FullBlockKeys(const PrefixHasher& hasher, std::string_view namespace_salt,
                                     std::span<const uint32_t> prompt, std::span<const uint32_t> committed);

}  // namespace longshelf::engine
