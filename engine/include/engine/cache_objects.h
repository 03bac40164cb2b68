#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/prefix_key.h"

namespace longshelf::engine {

// A piece of cached KV outside the engine. kBlock: a full block; key = its chain key, parent = the block before (or the
// root). kTail: a partly filled block, zero past n_tokens; key = hasher.Next(parent, its tokens). kCheckpoint: the
// state at n_tokens; key = key of the block or tail that ends there; parent = key of the last full block at or before
// n_tokens (or the root), so the same as key when n_tokens is a multiple of the block size.
struct ParkedObject {
  enum class Kind : uint8_t { kBlock, kTail, kCheckpoint };
  Kind kind = Kind::kBlock;
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;  // covered from position 0
  std::vector<std::byte> bytes;
};

// A position the prefix cache can resume at; key and parent as a kCheckpoint ParkedObject's.
struct CachedCheckpoint {
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;
};

}  // namespace longshelf::engine
