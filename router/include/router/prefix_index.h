#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "kvstore/keys.h"

namespace longshelf::router {

using kvstore::BlockKey;

struct BlockKeyHash {
  // The key is a SHA-256: any eight bytes of it are a hash.
  size_t operator()(const BlockKey& key) const;
};

// The block keys of a prompt: root, then one key per full block.
struct PromptKeys {
  BlockKey fingerprint{};  // of the model they were made for
  uint32_t block_tokens = 0;
  std::vector<BlockKey> chain;  // chain[0] is the root; chain[i] covers i * block_tokens tokens
};
// REQUIRES: block_tokens > 0.
PromptKeys MakePromptKeys(const BlockKey& fingerprint, std::string_view namespace_salt, uint32_t block_tokens,
                          std::span<const uint32_t> tokens);

struct IndexedCheckpoint {
  BlockKey key{};
  BlockKey parent{};
  uint32_t depth_tokens = 0;
};

// The positions one worker can resume at, as it published them. Owned by the router loop; no locks.
class PrefixIndex {
 public:
  // More checkpoints than max_entries are ignored: a shorter view costs a worse pick, never a wrong byte.
  explicit PrefixIndex(size_t max_entries = size_t{1} << 20) : max_entries_(max_entries) {}

  void Clear();
  void Add(const IndexedCheckpoint& checkpoint);
  void Remove(const BlockKey& key);
  size_t size() const { return by_key_.size(); }
  // Changes whenever an answer of UsablePrefix may.
  uint64_t version() const { return version_; }
  // SHA-256 chains hashed for tails so far: for tests of what a lookup costs.
  uint64_t n_tails_hashed() const { return n_tails_hashed_; }

  // The most tokens of the prompt that the worker can skip. Always less than the prompt: its last token must be
  // computed to have logits. A checkpoint between two block boundaries counts only if hashing the prompt's own tail
  // gives its key: hashed once for each length of a tail that hangs off the same block, however many have that length.
  uint32_t UsablePrefix(const PromptKeys& keys, std::span<const uint32_t> tokens) const;

 private:
  uint32_t LongestTail(const PromptKeys& keys, size_t block, std::span<const uint32_t> tokens) const;

  struct Place {
    BlockKey parent{};
    uint32_t depth_tokens = 0;
  };
  size_t max_entries_;
  std::unordered_map<BlockKey, Place, BlockKeyHash> by_key_;
  // Checkpoints hanging off a block (or the root), for those that are not at its own boundary: how many, by depth.
  std::unordered_map<BlockKey, std::map<uint32_t, uint32_t>, BlockKeyHash> tails_of_;
  uint64_t version_ = 0;
  mutable uint64_t n_tails_hashed_ = 0;
};

}  // namespace longshelf::router
