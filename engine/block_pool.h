#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "prefix_chain.h"

namespace longshelf::engine {

// One shard's KV blocks: which are free, who holds the others, and which full ones can be found by their key.
//
// A block is free, private (held once, being filled) or indexed (full, immutable, held by any number of sequences;
// evictable when by none). Whoever holds an indexed block holds the blocks before it too, so an indexed block that
// nobody holds has no held descendants, and evicting leaves first (least recently released) can reach all of them:
// every block that is not held can be handed out.
//
// Two prefixes may have one key. The first to be published has it; the block keeps the tokens that it is of, and
// whoever looks for a key compares them.
//
// Promises: admission promises each sequence its worst case; a promised block is one that Allocate() must be able to
// give. n_available() >= n_promised() always.
//
// Owner thread: the leader's engine thread. Decides the same on every run: no hash order, no time.
class BlockPool {
 public:
  explicit BlockPool(uint32_t n_blocks);

  uint32_t n_total() const { return static_cast<uint32_t>(blocks_.size()); }
  // Free blocks and indexed ones that nobody holds.
  uint32_t n_available() const { return static_cast<uint32_t>(free_.size()) + n_unheld_; }
  uint32_t n_promised() const { return n_promised_; }

  // REQUIRES: n_promised() + n <= n_available().
  void Promise(uint32_t n);
  void Unpromise(uint32_t n);

  // Keeps one promise: a private block held by the caller. Appends the key of an evicted block.
  uint32_t Allocate(std::vector<PrefixKey>& evicted);

  // Who has the key, whatever its tokens.
  std::optional<uint32_t> Find(const PrefixKey& key) const;
  // The block of just these tokens.
  std::optional<uint32_t> Find(const BlockName& name) const;
  // What an indexed block is of; as long as it is indexed.
  TokenStamp StampOf(uint32_t block) const { return {blocks_[block].stamp->before, blocks_[block].stamp->tokens}; }
  bool is_held(uint32_t block) const { return blocks_[block].n_holders > 0; }

  void Hold(uint32_t block);     // REQUIRES: indexed
  void Release(uint32_t block);  // a private block becomes free

  // Makes the caller's private block findable. When a block of the same name is indexed already the caller's block is
  // freed and the indexed one, now held by the caller too, is returned: same tokens, same bits. `parent` is the block
  // before, indexed and held by the caller, or none for a first block. REQUIRES: no other tokens have the key.
  uint32_t Publish(uint32_t block, const BlockName& name, std::optional<uint32_t> parent);

  // Aborts when the counts do not add up. For tests.
  void CheckInvariants() const;

 private:
  struct Stamp {
    TokenDigest before;
    std::array<uint32_t, kBlockTokens> tokens;
  };
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Block {
    uint32_t n_holders = 0;
    bool indexed = false;
    uint32_t parent = kNone;
    uint32_t n_children = 0;
    uint64_t released_at = 0;
    PrefixKey key{};
    std::unique_ptr<const Stamp> stamp = nullptr;  // of an indexed one
  };
  bool IsEvictableLeaf(const Block& block) const {
    return block.indexed && block.n_holders == 0 && block.n_children == 0;
  }
  PrefixKey EvictOne();

  std::vector<Block> blocks_;
  std::vector<uint32_t> free_;
  std::unordered_map<PrefixKey, uint32_t, PrefixKeyHash> index_;
  std::set<std::pair<uint64_t, uint32_t>> leaves_;  // evictable leaves by (released_at, block)
  uint32_t n_unheld_ = 0;                           // indexed, held by nobody
  uint32_t n_promised_ = 0;
  uint64_t now_ = 0;  // counts releases
};

}  // namespace longshelf::engine
