#include "object_index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"

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
  }
  return 3;
}

}  // namespace

bool ObjectIndex::SiblingOrder::operator()(const Entry* a, const Entry* b) const {
  const int order_a = KindOrder(a->head.key.kind);
  const int order_b = KindOrder(b->head.key.kind);
  if (order_a != order_b) return order_a < order_b;
  if (a->head.depth_tokens != b->head.depth_tokens) {
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
  if (entry.rank != Entry::Rank::kNone) ListOf(entry.rank).erase({entry.stamp, &entry});
  if (rank != Entry::Rank::kNone) ListOf(rank).emplace(entry.stamp, &entry);
  entry.rank = rank;
}

void ObjectIndex::RerankParent(const Entry& entry) {
  if (Entry* parent = ParentOf(entry); parent != nullptr) Rerank(*parent);
}

Entry& ObjectIndex::Insert(std::unique_ptr<Entry> owned, absl::Time now) {
  Entry& entry = *owned;
  LONGSHELF_CHECK(entry.rank == Entry::Rank::kNone && !entry.held && entry.n_pins == 0);
  const bool inserted = entries_.emplace(entry.head.key, std::move(owned)).second;
  LONGSHELF_CHECK(inserted);
  entry.stamp = next_stamp_++;
  children_[entry.head.parent].all.insert(&entry);
  Namespace& ns = namespaces_[entry.head.namespace_id];
  ns.entries.insert(&entry);
  ns.bytes += entry.charge_bytes;
  used_bytes_ += entry.charge_bytes;
  evictable_bytes_ += entry.charge_bytes;
  if (entry.head.object_class == ObjectClass::kParked && entry.head.retain_until > now) {
    SetHeld(entry, true);
  } else {
    Rerank(entry);
    RerankParent(entry);
  }
  return entry;
}

std::unique_ptr<Entry> ObjectIndex::Remove(Entry& entry) {
  if (entry.held) SetHeld(entry, false);
  if (entry.rank != Entry::Rank::kNone) ListOf(entry.rank).erase({entry.stamp, &entry});
  entry.rank = Entry::Rank::kNone;
  if (Evictable(entry)) evictable_bytes_ -= entry.charge_bytes;
  used_bytes_ -= entry.charge_bytes;

  const auto ns = namespaces_.find(entry.head.namespace_id);
  ns->second.bytes -= entry.charge_bytes;
  ns->second.entries.erase(&entry);
  if (ns->second.entries.empty()) namespaces_.erase(ns);

  const auto siblings = children_.find(entry.head.parent);
  siblings->second.all.erase(&entry);
  if (siblings->second.all.empty()) children_.erase(siblings);

  const auto it = entries_.find(entry.head.key);
  std::unique_ptr<Entry> owned = std::move(it->second);
  entries_.erase(it);
  RerankParent(entry);
  return owned;
}

void ObjectIndex::Touch(Entry& entry) {
  const uint64_t stamp = next_stamp_++;
  if (entry.rank != Entry::Rank::kNone) {
    Ordered& list = ListOf(entry.rank);
    list.erase({entry.stamp, &entry});
    list.emplace(stamp, &entry);
  }
  entry.stamp = stamp;
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

Entry* ObjectIndex::Victim() const {
  if (!leaves_.empty()) return leaves_.begin()->second;
  if (!under_held_.empty()) return under_held_.begin()->second;
  return nullptr;
}

CheckpointInfo ObjectIndex::Describe(const Entry& checkpoint) const {
  CheckpointInfo info;
  info.hash = checkpoint.head.key.hash;
  info.parent = checkpoint.head.parent;
  info.depth_tokens = checkpoint.head.depth_tokens;
  info.payload_bytes = checkpoint.head.payload_bytes;
  const Entry* tail = Find(ObjectKey{info.hash, ObjectKind::kTail});
  if (tail != nullptr && tail->head.fingerprint == checkpoint.head.fingerprint) {
    info.has_tail = true;
    info.tail_bytes = tail->head.payload_bytes;
  }
  return info;
}

LookupResult ObjectIndex::Lookup(const LookupQuery& query) {
  LookupResult result;
  std::vector<Entry*> present;
  for (const BlockKey& hash : query.chain) {
    Entry* entry = Find(ObjectKey{hash, ObjectKind::kBlock});
    if (entry == nullptr || entry->head.fingerprint != query.fingerprint) break;
    present.push_back(entry);
  }
  result.n_present = static_cast<uint32_t>(present.size());
  for (auto it = present.rbegin(); it != present.rend(); ++it) Touch(**it);
  if (!query.want_checkpoints) return result;

  const auto list = [&](const Entry* checkpoint) {
    if (checkpoint == nullptr || checkpoint->head.fingerprint != query.fingerprint) return false;
    result.checkpoints.push_back(Describe(*checkpoint));
    return true;
  };
  // Children of another fingerprint are not listed; this bounds how many of them are stepped over.
  size_t n_steps_left = 16 * kMaxListedTails;
  size_t n_tails = 0;
  const auto list_tails = [&](const BlockKey& parent) {
    const Children* children = ChildrenOf(parent);
    if (children == nullptr) return;
    for (const Entry* child : children->all) {
      if (child->head.key.kind != ObjectKind::kCheckpoint || n_tails >= kMaxListedTails || n_steps_left == 0) return;
      --n_steps_left;
      if (child->head.key.hash != parent && list(child)) ++n_tails;
    }
  };
  size_t n_boundaries = 0;
  for (auto it = present.rbegin(); it != present.rend(); ++it) {
    const BlockKey& hash = (*it)->head.key.hash;
    list_tails(hash);
    // The checkpoint at the end of a block has the block's name.
    if (n_boundaries < kMaxListedBoundaries && list(Find(ObjectKey{hash, ObjectKind::kCheckpoint}))) ++n_boundaries;
  }
  list_tails(query.root);
  for (const BlockKey& hash : query.probes) list(Find(ObjectKey{hash, ObjectKind::kCheckpoint}));
  return result;
}

std::vector<Entry*> ObjectIndex::OfNamespace(const std::string& namespace_id) const {
  const auto it = namespaces_.find(namespace_id);
  if (it == namespaces_.end()) return {};
  return {it->second.entries.begin(), it->second.entries.end()};
}

uint64_t ObjectIndex::NamespaceBytes(const std::string& namespace_id) const {
  const auto it = namespaces_.find(namespace_id);
  return it == namespaces_.end() ? 0 : it->second.bytes;
}

uint64_t ObjectIndex::NamespaceObjects(const std::string& namespace_id) const {
  const auto it = namespaces_.find(namespace_id);
  return it == namespaces_.end() ? 0 : it->second.entries.size();
}

}  // namespace longshelf::kvstore
