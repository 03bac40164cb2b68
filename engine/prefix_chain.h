#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "engine/prefix_key.h"
#include "engine/token_stamp.h"

namespace longshelf::engine {

// A PrefixKey is a digest already: its first bytes are a hash.
struct PrefixKeyHash {
  size_t operator()(const PrefixKey& key) const {
    size_t out;
    std::memcpy(&out, key.data(), sizeof out);
    return out;
  }
};

// A full block as it is looked for: its name, and what it has to be of.
struct BlockName {
  const PrefixKey& key;
  TokenStamp stamp;
};

// The keys of a token sequence's prefixes, and the digests of the same tokens, extended as its blocks fill.
class PrefixChain {
 public:
  PrefixChain(const PrefixHasher& hasher, std::string_view namespace_salt)
      : hasher_(&hasher), root_(hasher.Root(namespace_salt)), digests_{DigestOfSalt(namespace_salt)} {}

  // Takes keys that were computed elsewhere, by the same hasher, from the root on; those past n_tokens are dropped.
  // REQUIRES: nothing was computed yet, and Extend comes next.
  void Adopt(std::vector<PrefixKey> keys, int64_t n_tokens);
  // Computes the keys of every full block among the first n_tokens of `tokens`, which always is the same sequence.
  void Extend(std::span<const uint32_t> tokens, int64_t n_tokens);

  const PrefixKey& root() const { return root_; }
  // Keys of full blocks known so far.
  const std::vector<PrefixKey>& keys() const { return keys_; }
  // Key of the last full block at or before n_tokens, or the root. REQUIRES: extended that far.
  const PrefixKey& ParentAt(int64_t n_tokens) const;
  // Key of the position n_tokens > 0: a block's key, or a tail's. REQUIRES: extended that far.
  PrefixKey KeyAt(std::span<const uint32_t> tokens, int64_t n_tokens) const;
  // What full block `number` is of. REQUIRES: extended that far.
  BlockName BlockAt(std::span<const uint32_t> tokens, int64_t number) const;
  // What the tail and the state at n_tokens are of. REQUIRES: extended that far.
  TokenStamp StampAt(std::span<const uint32_t> tokens, int64_t n_tokens) const;
  // Of the first n_blocks blocks. REQUIRES: extended that far.
  const TokenDigest& DigestAt(int64_t n_blocks) const { return digests_[static_cast<size_t>(n_blocks)]; }

 private:
  const PrefixHasher* hasher_;
  PrefixKey root_;
  std::vector<PrefixKey> keys_;
  std::vector<TokenDigest> digests_;  // by number of blocks, from none on
};

}  // namespace longshelf::engine
