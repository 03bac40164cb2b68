#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>
#include <unordered_set>
#include <utility>

#include "entry.h"
#include "kvstore/object.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {

// Keys of objects that went, or were refused, before anybody used them. Bounded; forgets the oldest first.
class GhostQueue {
 public:
  void Add(const ObjectKey& key, size_t n_max);
  bool Has(const ObjectKey& key) const;
  void Remove(const ObjectKey& key);
  size_t size() const { return members_.size(); }

 private:
  std::deque<uint64_t> order_;
  std::unordered_set<uint64_t> members_;
};

struct EvictionOptions {
  EvictionPolicy policy = EvictionPolicy::kScanResistant;
  uint64_t capacity_bytes = 0;
  uint64_t small_limit_bytes = 0;  // to begin with
  uint64_t floor_bytes = 0;        // divided evenly, within a percent, among the namespaces that hold something
};

// Which of the evictable objects goes first. As in S3-FIFO, what is new waits in a small queue, and goes from there
// when nobody has used it by the time it is at the front; what was used meanwhile, or comes back soon after it went, is
// moved to the main queue. So what is seen once passes through the small queue and leaves the main one alone. How large
// the small queue may be follows what comes back soon after it went, as in ARC: larger when it had gone from there,
// smaller when from the main one. Unlike S3-FIFO's the main queue is ordered by last use: sessions are continued soon
// or not at all, and second chances in the order of arrival lost up to 2 points of hits on such traces.
//
// Only objects that the index ranks stand in the queues, as only those may go; the others keep their place (queue and
// stamp) for when they are ranked. A namespace that holds no more than its floor is passed over while others hold more
// than theirs; those two kinds of namespaces are kept apart, so that a victim is found as fast among many.
// Owner: the index.
class EvictionQueue {
 public:
  explicit EvictionQueue(const EvictionOptions& options)
      : options_(options), small_limit_bytes_(options.small_limit_bytes), floor_bytes_(options.floor_bytes) {}

  // Whether an object of this key, unless it is parked, would stand in the main queue.
  bool WasSeen(const ObjectKey& key) const {
    return options_.policy == EvictionPolicy::kLru || small_ghosts_.Has(key) || main_ghosts_.Has(key);
  }

  // REQUIRES: entry.tenant is set, the entry is new.
  void Enter(Entry& entry);
  // REQUIRES: not ranked. `evicted`: to make room, so its return would be worth noticing. n_objects: all that are
  // present, and the number of ghosts that are remembered.
  void Leave(Entry& entry, bool evicted, size_t n_objects);
  void NoteRefused(const ObjectKey& key, size_t n_objects) { small_ghosts_.Add(key, n_objects); }

  void Use(Entry& entry);
  void SetRank(Entry& entry, Entry::Rank rank);
  // Moves an entry, ranked or not, to the end of the main queue. False when it is there already. The index keeps the
  // parents of what is in the main queue there too: in the small queue they would be in the way of what is new.
  bool Promote(Entry& entry);

  // The next to go, or null when nothing may.
  Entry* Front() const;
  // Promotes a front that was used while it was new. False when it must go.
  bool Spare(Entry& front);

  // By how much the small queue is over its share: from here what is new may only replace what is new.
  uint64_t SmallExcess() const { return small_bytes_ > small_limit_bytes_ ? small_bytes_ - small_limit_bytes_ : 0; }
  uint64_t LeafBytes(Entry::Queue queue) const { return leaf_bytes_[Index(queue)]; }
  // Calls visit(entry) for the leaves of a queue, in no particular order, until it returns false.
  template <typename Visit>
  void VisitLeaves(Entry::Queue queue, Visit visit) const {
    for (const bool over : {false, true}) {
      for (const auto& [stamp, tenant] : heads_[over][Index(queue)]) {
        for (const auto& [entry_stamp, entry] : tenant->candidates[Index(queue)]) {
          if (!visit(*entry)) return;
        }
      }
    }
  }
  const Candidates& under_held() const { return under_held_; }

 private:
  static size_t Index(Entry::Queue queue) { return static_cast<size_t>(queue); }
  // Among the namespaces over their floor, or among the others.
  Entry* FrontOf(Entry::Queue queue, bool over) const;
  void Resize(Tenant& tenant, uint64_t bytes);
  void SetFloor();
  void AdaptSmallLimit(const Entry& entry);
  void SetOver(Tenant& tenant, bool over);
  void List(Entry& leaf);
  void Unlist(Entry& leaf);
  void Restamp(Entry& entry, Entry::Queue queue);

  const EvictionOptions options_;
  GhostQueue small_ghosts_;
  GhostQueue main_ghosts_;
  uint64_t small_limit_bytes_;
  using Tenants = std::set<std::pair<uint64_t, Tenant*>>;
  Tenants heads_[2][2];  // by over_floor and queue: the front stamp of each namespace that has one
  Tenants by_bytes_;
  uint64_t floor_bytes_;  // of each
  size_t n_floors_ = 1;   // among how many it was divided
  Candidates under_held_;
  uint64_t leaf_bytes_[2] = {0, 0};
  uint64_t small_bytes_ = 0;  // ranked or not
  uint64_t next_stamp_ = 1;
};

}  // namespace longshelf::kvstore
