#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "block_pool.h"
#include "checkpoint_store.h"
#include "engine/cache_objects.h"

namespace longshelf::engine {

// Why something that has the right key is not used, as Started::miss_reason.
inline constexpr std::string_view kTokenMismatch = "token_mismatch";

// What one shard holds of a prefix.
struct PrefixMatch {
  int64_t n_blocks = 0;                          // leading full blocks in its arena
  int64_t n_tokens = 0;                          // where it can resume; 0 = nowhere
  std::shared_ptr<const Checkpoint> checkpoint;  // null when n_tokens is 0
  bool has_mismatch = false;                     // it ends where others' tokens have the key
};

// The local prefix cache: full blocks in every shard's arena, and checkpoints beside them. A position can be resumed on
// a shard when that shard holds all full blocks before it and any shard holds its checkpoint; a checkpoint whose last
// full block left every shard is dropped, so every checkpoint kept is usable somewhere. Keys find; what is found is
// compared with the tokens before it is used. Owner thread: the leader's engine thread.
class PrefixCache {
 public:
  PrefixCache(int n_shards, uint32_t n_blocks_per_shard, uint64_t checkpoint_bytes_max);

  bool enabled() const { return checkpoint_bytes_max_ > 0; }
  int n_shards() const { return static_cast<int>(pools_.size()); }
  const BlockPool& pool(int shard) const { return pools_[static_cast<size_t>(shard)]; }
  BlockPool& pool(int shard) { return pools_[static_cast<size_t>(shard)]; }

  // The longest position at or before n_tokens_max that `shard` can resume at.
  PrefixMatch Match(int shard, const PrefixChain& chain, std::span<const uint32_t> tokens, int64_t n_tokens_max) const;
  // The best of all shards (the lowest on ties) and which one it is.
  PrefixMatch MatchAnywhere(const PrefixChain& chain, std::span<const uint32_t> tokens, int64_t n_tokens_max,
                            int& shard) const;
  // Why Match stopped short of n_tokens_max (Started::miss_reason); empty when it did not.
  std::string_view MissReason(const PrefixChain& chain, std::span<const uint32_t> tokens, const PrefixMatch& match,
                              int64_t n_tokens_max) const;

  // Where a full block is, on the lowest shard that has it.
  struct HeldBlock {
    int shard = 0;
    uint32_t block = 0;
  };
  std::optional<HeldBlock> FindBlock(const PrefixKey& key) const;

  // A block for a sequence at home on `shard`. REQUIRES: promised.
  uint32_t Allocate(int shard);

  bool HasCheckpoint(const PrefixKey& key) const { return checkpoints_.Contains(key); }
  // Null when absent.
  std::shared_ptr<const Checkpoint> FindCheckpoint(const PrefixKey& key) const { return checkpoints_.Find(key); }
  // Keeps it when its last full block is held somewhere and the budget allows.
  void InsertCheckpoint(std::shared_ptr<const Checkpoint> checkpoint);
  void TouchCheckpoint(const PrefixKey& key) { checkpoints_.Touch(key); }
  // Drops those of `keys` that nobody has used since they were inserted; returns which.
  std::vector<PrefixKey> DropUnused(const std::vector<PrefixKey>& keys);
  uint64_t checkpoint_bytes() const { return checkpoints_.n_bytes(); }

  // What EngineObserver::OnCheckpointsChanged should hear since the last call.
  struct Changes {
    std::vector<CachedCheckpoint> gained;
    std::vector<PrefixKey> lost;
  };
  Changes TakeChanges();

 private:
  bool IsBlockAnywhere(const PrefixKey& key) const;
  void OnLost(const std::vector<PrefixKey>& keys);
  void ReportLost(const PrefixKey& key);
  void RememberEvicted(const PrefixKey& key);

  const uint64_t checkpoint_bytes_max_;
  std::vector<BlockPool> pools_;
  CheckpointStore checkpoints_;
  Changes changes_;
  // The last keys that were evicted, to tell "evicted" from "cold". Counted: a key may be evicted twice.
  std::deque<PrefixKey> evicted_order_;
  std::unordered_map<PrefixKey, uint32_t, PrefixKeyHash> evicted_;
};

}  // namespace longshelf::engine
