#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/prefix_key.h"
#include "kvstore/keys.h"
#include "kvstore/object.h"

namespace longshelf::worker {

// The store's names of one prompt's prefixes, as far as a resumed sequence could use them.
class Chain {
 public:
  // `hasher` is the engine's, and outlives this. `known`: keys of leading full blocks that were computed already. The
  // last token is always computed, because its logits are wanted: nothing at or behind it is named.
  Chain(const engine::PrefixHasher& hasher, std::string_view namespace_salt, std::span<const uint32_t> tokens,
        std::vector<kvstore::BlockKey> known);

  int64_t n_usable() const { return n_usable_; }
  const kvstore::BlockKey& root() const { return root_; }
  const std::vector<kvstore::BlockKey>& blocks() const { return blocks_; }
  // Of the last full block at or before n_tokens, or the root.
  const kvstore::BlockKey& ParentAt(int64_t n_tokens) const;
  // Where an object of the first n_tokens, 1 or more, is placed.
  const kvstore::BlockKey& ExtentAt(int64_t n_tokens) const;
  // The name of the checkpoint at n_tokens of these tokens.
  kvstore::BlockKey CheckpointAt(std::span<const uint32_t> tokens, int64_t n_tokens) const;

 private:
  const engine::PrefixHasher* hasher_;
  int64_t n_usable_ = 0;
  kvstore::BlockKey root_{};
  std::vector<kvstore::BlockKey> blocks_;
};

}  // namespace longshelf::worker
