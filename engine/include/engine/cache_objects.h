#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/kv_copy.h"
#include "engine/prefix_key.h"

namespace longshelf::engine {

// A piece of cached KV beside the arenas. kBlock: a full block; key = its chain key, parent = the block before (or the
// root). kTail: a partly filled block, zero past n_tokens; key = hasher.Next(parent, its tokens). kCheckpoint: the
// state at n_tokens; key = key of the block or tail that ends there; parent = key of the last full block at or before
// n_tokens (or the root), so the same as key when n_tokens is a multiple of the block size. The bytes are on the
// shard that made them.
struct ParkedObject {
  enum class Kind : uint8_t { kBlock, kTail, kCheckpoint };
  Kind kind = Kind::kBlock;
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;  // covered from position 0
  KvCopyPtr copy;
};

// A position the prefix cache can resume at; key and parent as a kCheckpoint ParkedObject's.
struct CachedCheckpoint {
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;
};

// What resumes at a position, beside the full blocks before it.
struct FoundPrefix {
  CachedCheckpoint at;
  PrefixKey root{};
  std::vector<PrefixKey> blocks;  // keys of the full blocks before it
  KvCopyPtr state;
  KvCopyPtr tail;  // null when the position ends a block
};

// Takes blocks that the engine copies out. Called on the engine thread: must not block.
class BlockSink {
 public:
  virtual ~BlockSink() = default;
  // How many more blocks it has room for. Whoever makes room where there was none posts Wake. Below 0: nothing more is
  // wanted, and nothing more comes, OnEnd neither.
  virtual int64_t n_room() = 0;
  virtual void OnBlock(ParkedObject block) = 0;
  // OK after the last block. NOT_FOUND: the next one is not held any more. UNAVAILABLE: the engine has ended,
  // or has too many exports at once.
  virtual void OnEnd(const absl::Status& status) = 0;
};

}  // namespace longshelf::engine
