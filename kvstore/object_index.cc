#include "object_index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "kvstore/namespace_id.h"

namespace longshelf::kvstore {
namespace {

int KindOrder(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kCheckpoint:
      return 0;
    case ObjectKind::kBlock:
      return 1;
    case ObjectKind::kTail:
      return 2;
    case ObjectKind::kManifest:
      return 3;
  }
  return 4;
}

}  // namespace

bool ObjectIndex::SiblingOrder::operator()(const Entry* a, const Entry* b) const {
  const int order_a = KindOrder(a->head.key.kind);
  const int order_b = KindOrder(b->head.key.kind);
  if (order_a != order_b) return order_a < order_b;
  if (a->head.depth_tokens != b->head.depth_tokens && a->head.key.kind != ObjectKind::kManifest) {
    return a->head.key.kind == ObjectKind::kCheckpoint ? a->head.depth_tokens > b->head.depth_tokens
                                                       : a->head.depth_tokens < b->head.depth_tokens;
  }
  return a->head.key.hash < b->head.key.hash;
}

Entry* ObjectIndex::Find(const ObjectKey& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : it->second.get();
}

const ObjectIndex::Children* ObjectIndex::ChildrenOf(const BlockKey& hash) const {
  const auto it = children_.find(hash);
  return it == children_.end() ? nullptr : &it->second;
}

Entry* ObjectIndex::ParentOf(const Entry& entry) const {
  return Find(ObjectKey{entry.head.parent, ObjectKind::kBlock});
}

absl::Status ObjectIndex::CheckLinks(const ObjectHead& head) const {
  // Only blocks are parents, so only blocks can close a circle.
  if (head.key.kind != ObjectKind::kBlock) return absl::OkStatus();
  if (head.parent == head.key.hash) return absl::InvalidArgumentError("parent: a block cannot be its own parent");
  const Entry* parent = Find(ObjectKey{head.parent, ObjectKind::kBlock});
  if (parent != nullptr && parent->head.depth_tokens >= head.depth_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("depth_tokens: ", head.depth_tokens,
                                                   " is not below the parent's depth ", parent->head.depth_tokens));
  }
  if (const Children* children = ChildrenOf(head.key.hash); children != nullptr) {
    Entry first_block;  // sorts before every block
    const auto child = children->all.lower_bound(&first_block);
    if (child != children->all.end() && (*child)->head.key.kind == ObjectKind::kBlock &&
        (*child)->head.depth_tokens <= head.depth_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("depth_tokens: ", head.depth_tokens,
                                                     " is not above the child's depth ", (*child)->head.depth_tokens));
    }
  }
  return absl::OkStatus();
}

void ObjectIndex::Rerank(Entry& entry) {
  Entry::Rank rank = Entry::Rank::kNone;
  if (Evictable(entry)) {
    const Children* children = entry.head.key.kind == ObjectKind::kBlock ? ChildrenOf(entry.head.key.hash) : nullptr;
    if (children == nullptr || children->all.empty()) {
      rank = Entry::Rank::kLeaf;
    } else if (children->n_held == children->all.size()) {
      rank = Entry::Rank::kUnderHeld;
    }
  }
  if (rank == entry.rank) return;
  queue_.SetRank(entry, rank);
}

void ObjectIndex::RerankParent(const Entry& entry) {
  if (Entry* parent = ParentOf(entry); parent != nullptr) Rerank(*parent);
}

Entry& ObjectIndex::Insert(std::unique_ptr<Entry> owned, absl::Time now) {
  Entry& entry = *owned;
  LONGSHELF_CHECK(entry.rank == Entry::Rank::kNone && !entry.held && entry.n_pins == 0);
  const bool inserted = entries_.emplace(entry.head.key, std::move(owned)).second;
  LONGSHELF_CHECK(inserted);
  children_[entry.head.parent].all.insert(&entry);
  entry.tenant = &tenants_[entry.head.namespace_id];
  entry.tenant->entries.insert(&entry);
  queue_.Enter(entry);
  if (HasChildInMain(entry)) queue_.Promote(entry);
  if (entry.queue == Entry::Queue::kMain) PromoteParents(entry);
  used_bytes_ += entry.charge_bytes;
  evictable_bytes_ += entry.charge_bytes;
  if (entry.head.IsRetained(now)) {
    SetHeld(entry, true);
  } else {
    Rerank(entry);
    RerankParent(entry);
  }
  return entry;
}

std::unique_ptr<Entry> ObjectIndex::Take(Entry& entry, bool evicted) {
  if (entry.held) SetHeld(entry, false);
  queue_.SetRank(entry, Entry::Rank::kNone);
  queue_.Leave(entry, evicted, entries_.size());
  if (Evictable(entry)) evictable_bytes_ -= entry.charge_bytes;
  used_bytes_ -= entry.charge_bytes;

  entry.tenant->entries.erase(&entry);
  if (entry.tenant->entries.empty()) tenants_.erase(entry.head.namespace_id);
  entry.tenant = nullptr;

  const auto siblings = children_.find(entry.head.parent);
  siblings->second.all.erase(&entry);
  if (siblings->second.all.empty()) children_.erase(siblings);

  const auto it = entries_.find(entry.head.key);
  std::unique_ptr<Entry> owned = std::move(it->second);
  entries_.erase(it);
  RerankParent(entry);
  return owned;
}

void ObjectIndex::Pin(Entry& entry) {
  if (Evictable(entry)) evictable_bytes_ -= entry.charge_bytes;
  ++entry.n_pins;
  Rerank(entry);
}

void ObjectIndex::Unpin(Entry& entry) {
  LONGSHELF_CHECK(entry.n_pins > 0);
  --entry.n_pins;
  if (Evictable(entry)) evictable_bytes_ += entry.charge_bytes;
  Rerank(entry);
}

void ObjectIndex::SetHeld(Entry& entry, bool held) {
  if (entry.held == held) return;
  Children& siblings = children_[entry.head.parent];
  if (held) {
    if (entry.n_pins == 0) evictable_bytes_ -= entry.charge_bytes;
    holds_.emplace(entry.head.retain_until, &entry);
    held_bytes_ += entry.charge_bytes;
    ++siblings.n_held;
    queue_.Promote(entry);  // somebody means to come back
    PromoteParents(entry);
  } else {
    if (entry.n_pins == 0) evictable_bytes_ += entry.charge_bytes;
    holds_.erase({entry.head.retain_until, &entry});
    held_bytes_ -= entry.charge_bytes;
    --siblings.n_held;
  }
  entry.held = held;
  Rerank(entry);
  RerankParent(entry);
}

void ObjectIndex::Hold(Entry& entry, absl::Time until) {
  if (entry.held) {
    if (until <= entry.head.retain_until) return;
    holds_.erase({entry.head.retain_until, &entry});
    entry.head.retain_until = until;
    holds_.emplace(until, &entry);
    return;
  }
  entry.head.object_class = ObjectClass::kParked;
  entry.head.retain_until = until;
  SetHeld(entry, true);
}

void ObjectIndex::ExpireHolds(absl::Time now) {
  while (!holds_.empty() && holds_.begin()->first <= now) SetHeld(*holds_.begin()->second, false);
}

std::vector<ObjectHead> ObjectIndex::Held(absl::Time& until, Entry*& entry, size_t n_max) const {
  std::vector<ObjectHead> heads;
  for (auto it = holds_.upper_bound({until, entry}); it != holds_.end() && heads.size() < n_max; ++it) {
    heads.push_back(it->second->head);
    until = it->first;
    entry = it->second;
  }
  return heads;
}

uint64_t ObjectIndex::Freeable(uint64_t wanted, const Entry::Queue* queue) const {
  uint64_t n_bytes = 0;
  // Children of a parent that could go before it; held ones need not.
  std::unordered_map<const Entry*, uint64_t> n_gone;
  // Of each candidate the ancestors that could follow it.
  const auto climb = [&](const Entry& candidate) {
    const Entry* entry = &candidate;
    while (n_bytes < wanted) {
      n_bytes += entry->charge_bytes;
      entry = ParentOf(*entry);
      if (entry == nullptr || !Evictable(*entry) || (queue != nullptr && entry->queue != *queue)) break;
      const Children* children = ChildrenOf(entry->head.key.hash);
      if (++n_gone[entry] < children->all.size() - children->n_held) break;
    }
    return n_bytes < wanted;
  };
  for (const Entry::Queue each : {Entry::Queue::kSmall, Entry::Queue::kMain}) {
    if (queue == nullptr || *queue == each) queue_.VisitLeaves(each, climb);
  }
  if (queue == nullptr) {
    for (const auto& [stamp, entry] : queue_.under_held()) {
      if (!climb(*entry)) break;
    }
  }
  return n_bytes;
}

bool ObjectIndex::CanFree(uint64_t n_bytes, const ObjectHead& wanted_for, bool parked) const {
  constexpr Entry::Queue kSmall = Entry::Queue::kSmall;
  if (!parked && !queue_.WasSeen(wanted_for.key)) {
    const uint64_t wanted = std::min(n_bytes, queue_.SmallExcess());
    // Without its parent it is of no use, and it must not push out the part of the chain that is.
    if (wanted > 0 && queue_.WasSeen(ObjectKey{wanted_for.parent, ObjectKind::kBlock})) return false;
    if (queue_.LeafBytes(kSmall) < wanted && Freeable(wanted, &kSmall) < wanted) return false;
  }
  if (queue_.LeafBytes(kSmall) + queue_.LeafBytes(Entry::Queue::kMain) >= n_bytes) return true;
  return evictable_bytes_ >= n_bytes && Freeable(n_bytes, nullptr) >= n_bytes;
}

std::unique_ptr<Entry> ObjectIndex::Evict() {
  Entry* victim = queue_.Front();
  // Each object is promoted once.
  while (victim != nullptr && queue_.Spare(*victim)) {
    PromoteParents(*victim);
    victim = queue_.Front();
  }
  return victim == nullptr ? nullptr : Take(*victim, /*evicted=*/true);
}

void ObjectIndex::PromoteParents(const Entry& entry) {
  for (Entry* above = ParentOf(entry); above != nullptr && queue_.Promote(*above);) above = ParentOf(*above);
}

bool ObjectIndex::HasChildInMain(const Entry& entry) const {
  const Children* children = entry.head.key.kind == ObjectKind::kBlock ? ChildrenOf(entry.head.key.hash) : nullptr;
  return children != nullptr && std::any_of(children->all.begin(), children->all.end(),
                                            [](const Entry* child) { return child->queue == Entry::Queue::kMain; });
}

std::vector<ObjectHead> ObjectIndex::Manifests(const ListQuery& query) const {
  std::vector<ObjectHead> heads;
  const Children* children = ChildrenOf(query.parent);
  if (children == nullptr) return heads;
  Entry first;
  first.head.key = {FirstListed(query), ObjectKind::kManifest};
  for (auto it = children->all.lower_bound(&first); it != children->all.end() && heads.size() < query.limit; ++it) {
    if (!IsListed(query, (*it)->head.key.hash)) {
      if ((*it)->head.key.hash == query.after) continue;
      break;
    }
    heads.push_back((*it)->head);
  }
  return heads;
}

Entry* ObjectIndex::AnyOfNamespace(const std::string& namespace_id) const {
  const auto it = tenants_.find(namespace_id);
  return it == tenants_.end() ? nullptr : *it->second.entries.begin();
}

std::vector<std::string> ObjectIndex::NamespacesBefore(const std::string& name, uint64_t generation) const {
  std::vector<std::string> ids;
  if (tenants_.contains(name) && IsBefore(name, name, generation)) ids.push_back(name);
  for (const char* separator : {"#", ":"}) {
    const std::string prefix = name + separator;
    for (auto it = tenants_.lower_bound(prefix); it != tenants_.end() && it->first.starts_with(prefix); ++it) {
      if (IsBefore(it->first, name, generation)) ids.push_back(it->first);
    }
  }
  return ids;
}

uint64_t ObjectIndex::NamespaceBytes(const std::string& namespace_id) const {
  const auto it = tenants_.find(namespace_id);
  return it == tenants_.end() ? 0 : it->second.bytes;
}

uint64_t ObjectIndex::NamespaceObjects(const std::string& namespace_id) const {
  const auto it = tenants_.find(namespace_id);
  return it == tenants_.end() ? 0 : it->second.entries.size();
}

}  // namespace longshelf::kvstore
