#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/cache_objects.h"
#include "prefix_chain.h"

namespace longshelf::engine {

// What continues a sequence after its first n_tokens, beside its full blocks. Immutable; shared by the cache, by
// sequences that resume from it and by exports in flight.
struct Checkpoint {
  PrefixKey key{};
  PrefixKey parent{};  // last full block at or before n_tokens, or the root
  int64_t n_tokens = 0;
  KvCopyPtr state;  // stamped with the tokens since the last full block, as the tail is
  KvCopyPtr tail;   // the partly filled block, cleared past n_tokens; null when n_tokens ends a block
};

// Checkpoints in the memory of the shards that made them, under one byte budget, least recently used first to go.
// Owner: the prefix cache.
class CheckpointStore {
 public:
  explicit CheckpointStore(uint64_t bytes_max) : bytes_max_(bytes_max) {}

  // Makes it the most recent, then evicts until the budget holds; evicted (possibly itself) are appended.
  void Insert(std::shared_ptr<const Checkpoint> checkpoint, std::vector<PrefixKey>& evicted);
  bool Contains(const PrefixKey& key) const { return entries_.contains(key); }
  // Null when absent.
  std::shared_ptr<const Checkpoint> Find(const PrefixKey& key) const;
  // Somebody resumes there, or came to the same position: it is the most recent, and used.
  void Touch(const PrefixKey& key);
  // Removes those of `keys` that were never touched.
  void EraseUnused(const std::vector<PrefixKey>& keys, std::vector<PrefixKey>& erased);
  // Removes every checkpoint whose parent is `parent`.
  void EraseFamily(const PrefixKey& parent, std::vector<PrefixKey>& erased);

  // Lengths of the tails below `parent`, longest first.
  std::vector<int64_t> TailLengths(const PrefixKey& parent) const;

  uint64_t n_bytes() const { return n_bytes_; }
  size_t size() const { return entries_.size(); }

 private:
  struct Family {
    std::vector<PrefixKey> keys;
    std::map<int64_t, uint32_t> n_by_tail_length;
  };
  struct Entry {
    std::shared_ptr<const Checkpoint> checkpoint;
    bool is_used = false;
  };
  using Order = std::list<Entry>;  // least recent first

  void Erase(const PrefixKey& key);

  const uint64_t bytes_max_;
  uint64_t n_bytes_ = 0;
  Order order_;
  std::unordered_map<PrefixKey, Order::iterator, PrefixKeyHash> entries_;
  std::unordered_map<PrefixKey, Family, PrefixKeyHash> families_;
};

}  // namespace longshelf::engine
