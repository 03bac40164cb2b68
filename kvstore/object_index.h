#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "disk/listing.h"
#include "entry.h"
#include "eviction_queue.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"

namespace longshelf::kvstore {

// Who is present, how objects hang together, and who goes first when memory is short. Knows nothing of bytes.
//
// Eviction order. Candidates are objects that are neither held nor pinned and have no present children, in the order of
// the eviction queue: a parent never goes before its child. When there is none, parents whose children are all held
// follow, least recent first: a retention protects exactly the objects it was asked for, so what is outside the parked
// share can always be evicted.
//
// Chains cannot form a cycle: along parent links depth strictly falls (CheckLinks).
// Owner: the store, under its mutex.
class ObjectIndex {
 public:
  explicit ObjectIndex(const EvictionOptions& eviction) : queue_(eviction) {}

  // Null when absent.
  Entry* Find(const ObjectKey& key) const;

  // INVALID_ARGUMENT when the object cannot be linked to the present ones: a block no deeper than its parent or no
  // shallower than its child.
  absl::Status CheckLinks(const ObjectHead& head) const;

  // Most recent. REQUIRES: the key is absent and CheckLinks passed. A parked entry whose time is past is not held.
  Entry& Insert(std::unique_ptr<Entry> entry, absl::Time now);
  std::unique_ptr<Entry> Remove(Entry& entry) { return Take(entry, /*evicted=*/false); }

  // Counts as a use. Of a chain, the deepest first.
  void Touch(Entry& entry) { queue_.Use(entry); }
  void Pin(Entry& entry);
  void Unpin(Entry& entry);
  // Parks until the later of `until` and what was promised before.
  void Hold(Entry& entry, absl::Time until);
  // The retention is somebody else's from now on.
  void Release(Entry& entry) { SetHeld(entry, false); }
  // Ends retentions that are over: their objects become evictable, nothing more.
  void ExpireHolds(absl::Time now);

  // Those held, by time: at most n_max behind (until, entry), which becomes the last of them. The entry is only
  // compared.
  std::vector<ObjectHead> Held(absl::Time& until, Entry*& entry, size_t n_max) const;

  // Whether evicting can free that much for this object, and may: what is new and not parked cannot push
  // out what was used, once the small queue is over its share.
  bool CanFree(uint64_t n_bytes, const ObjectHead& wanted_for, bool parked) const;
  // Takes out what goes next; null when nothing may.
  std::unique_ptr<Entry> Evict();
  // Remembers that an object was turned away: when it comes again soon, it counts as used.
  void NoteRefused(const ObjectKey& key) { queue_.NoteRefused(key, entries_.size()); }

  // Calls visit(entry) for the checkpoints that hang off a hash, deepest first, until it returns false.
  template <typename Visit>
  void VisitCheckpoints(const BlockKey& parent, Visit visit) const {
    const Children* children = ChildrenOf(parent);
    if (children == nullptr) return;
    for (const Entry* child : children->all) {
      if (child->head.key.kind != ObjectKind::kCheckpoint || !visit(*child)) return;
    }
  }

  // What a List finds, at most its limit.
  std::vector<ObjectHead> Manifests(const ListQuery& query) const;

  // Any entry of a namespace, or null.
  Entry* AnyOfNamespace(const std::string& namespace_id) const;
  // Those that hold something and are IsBefore.
  std::vector<std::string> NamespacesBefore(const std::string& name, uint64_t generation) const;
  uint64_t NamespaceBytes(const std::string& namespace_id) const;
  uint64_t NamespaceObjects(const std::string& namespace_id) const;

  uint64_t n_objects() const { return entries_.size(); }
  uint64_t used_bytes() const { return used_bytes_; }
  uint64_t held_bytes() const { return held_bytes_; }
  // Neither held nor pinned. An upper bound of what evicting everything frees: a pinned child keeps its parents.
  uint64_t evictable_bytes() const { return evictable_bytes_; }

 private:
  struct KeyHash {
    size_t operator()(const BlockKey& key) const {
      return absl::HashOf(absl::string_view(reinterpret_cast<const char*>(key.data()), key.size()));
    }
    size_t operator()(const ObjectKey& key) const { return (*this)(key.hash) * 4 + static_cast<size_t>(key.kind); }
  };
  // Checkpoints first, deepest first; then blocks, shallowest first; then tails; then manifests, by hash.
  struct SiblingOrder {
    bool operator()(const Entry* a, const Entry* b) const;
  };
  struct Children {
    std::set<Entry*, SiblingOrder> all;
    uint64_t n_held = 0;
  };
  bool Evictable(const Entry& entry) const { return !entry.held && entry.n_pins == 0; }
  const Children* ChildrenOf(const BlockKey& hash) const;
  Entry* ParentOf(const Entry& entry) const;
  // Tells the queue whether the entry may go.
  void Rerank(Entry& entry);
  void RerankParent(const Entry& entry);
  void SetHeld(Entry& entry, bool held);
  // Keeps parents of what is in the main queue there.
  void PromoteParents(const Entry& entry);
  bool HasChildInMain(const Entry& entry) const;
  std::unique_ptr<Entry> Take(Entry& entry, bool evicted);
  // At least min(wanted, what evicting can free); of one queue, or of everything when null.
  uint64_t Freeable(uint64_t wanted, const Entry::Queue* queue) const;

  std::unordered_map<ObjectKey, std::unique_ptr<Entry>, KeyHash> entries_;
  std::unordered_map<BlockKey, Children, KeyHash> children_;  // by parent hash, present or not
  std::map<std::string, Tenant> tenants_;                     // by namespace
  EvictionQueue queue_;
  std::set<std::pair<absl::Time, Entry*>> holds_;
  uint64_t used_bytes_ = 0;
  uint64_t held_bytes_ = 0;
  uint64_t evictable_bytes_ = 0;
};

}  // namespace longshelf::kvstore
