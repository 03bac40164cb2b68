#pragma once

#include <compare>
#include <cstdint>
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
#include "kvstore/object.h"
#include "kvstore/queries.h"

namespace longshelf::kvstore {

// A committed object. Fields below the line belong to the index.
struct Entry {
  ObjectHead head;
  std::vector<uint32_t> pages;
  uint64_t charge_bytes = 0;  // what it costs against the store's limit
  uint32_t n_pins = 0;        // readers that still copy from the pages; changed through Pin and Unpin
  // ---
  enum class Rank : uint8_t { kNone, kLeaf, kUnderHeld };
  bool held = false;        // parked and not expired
  Rank rank = Rank::kNone;  // which eviction list it is on
  uint64_t stamp = 0;       // recency; larger is later
};

// Who is present, how objects hang together, and who goes first when memory is short. Knows nothing of bytes.
//
// Eviction order. Candidates are objects that are neither held nor pinned and have no present children, least recent
// first: a parent never goes before its child. When there is none, parents whose children are all held follow: a
// retention protects exactly the objects it was asked for, so what is outside the parked share can always be evicted.
//
// Chains cannot form a cycle: along parent links depth strictly falls (CheckLinks).
// Owner: the store, under its mutex.
class ObjectIndex {
 public:
  // Null when absent.
  Entry* Find(const ObjectKey& key) const;

  // INVALID_ARGUMENT when the object cannot be linked to the present ones: a block no deeper than its parent or no
  // shallower than its child.
  absl::Status CheckLinks(const ObjectHead& head) const;

  // Most recent. REQUIRES: the key is absent and CheckLinks passed. A parked entry whose time is past is not held.
  Entry& Insert(std::unique_ptr<Entry> entry, absl::Time now);
  std::unique_ptr<Entry> Remove(Entry& entry);

  void Touch(Entry& entry);
  void Pin(Entry& entry);
  void Unpin(Entry& entry);
  // Parks until the later of `until` and what was promised before.
  void Hold(Entry& entry, absl::Time until);
  // Ends retentions that are over: their objects become evictable, nothing more.
  void ExpireHolds(absl::Time now);

  // The object to evict next, or null.
  Entry* Victim() const;

  // Touches the present prefix, deepest first.
  LookupResult Lookup(const LookupQuery& query);

  // Entries of a namespace, in no particular order.
  std::vector<Entry*> OfNamespace(const std::string& namespace_id) const;
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
  // Checkpoints first, deepest first; then blocks, shallowest first; then tails.
  struct SiblingOrder {
    bool operator()(const Entry* a, const Entry* b) const;
  };
  struct Children {
    std::set<Entry*, SiblingOrder> all;
    uint64_t n_held = 0;
  };
  struct Namespace {
    std::unordered_set<Entry*> entries;
    uint64_t bytes = 0;
  };

  bool Evictable(const Entry& entry) const { return !entry.held && entry.n_pins == 0; }
  const Children* ChildrenOf(const BlockKey& hash) const;
  Entry* ParentOf(const Entry& entry) const;
  // Puts the entry on the list it belongs to, or on none.
  void Rerank(Entry& entry);
  void RerankParent(const Entry& entry);
  void SetHeld(Entry& entry, bool held);
  CheckpointInfo Describe(const Entry& checkpoint) const;

  using Ordered = std::set<std::pair<uint64_t, Entry*>>;
  Ordered& ListOf(Entry::Rank rank) { return rank == Entry::Rank::kLeaf ? leaves_ : under_held_; }

  std::unordered_map<ObjectKey, std::unique_ptr<Entry>, KeyHash> entries_;
  std::unordered_map<BlockKey, Children, KeyHash> children_;  // by parent hash, present or not
  std::unordered_map<std::string, Namespace> namespaces_;
  Ordered leaves_;
  Ordered under_held_;
  std::set<std::pair<absl::Time, Entry*>> holds_;
  uint64_t next_stamp_ = 1;
  uint64_t used_bytes_ = 0;
  uint64_t held_bytes_ = 0;
  uint64_t evictable_bytes_ = 0;
};

}  // namespace longshelf::kvstore
