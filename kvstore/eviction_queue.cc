#include "eviction_queue.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace longshelf::kvstore {
namespace {

// Two contexts of 1 Mi tokens; less than half a megabyte.
constexpr size_t kGhostsMin = 8192;

uint64_t GhostOf(const ObjectKey& key) {
  uint64_t word = 0;
  std::memcpy(&word, key.hash.data(), sizeof word);
  return word * 4 + static_cast<uint64_t>(key.kind);
}

}  // namespace

void GhostQueue::Add(const ObjectKey& key, size_t n_max) {
  if (members_.insert(GhostOf(key)).second) order_.push_back(GhostOf(key));
  while (order_.size() > std::max(n_max, kGhostsMin)) {
    members_.erase(order_.front());
    order_.pop_front();
  }
}

bool GhostQueue::Has(const ObjectKey& key) const { return members_.contains(GhostOf(key)); }
void GhostQueue::Remove(const ObjectKey& key) { members_.erase(GhostOf(key)); }

void EvictionQueue::Enter(Entry& entry) {
  entry.used = false;
  entry.stamp = next_stamp_++;
  entry.queue = WasSeen(entry.head.key) ? Entry::Queue::kMain : Entry::Queue::kSmall;
  ghosts_.Remove(entry.head.key);
  if (entry.queue == Entry::Queue::kSmall) small_bytes_ += entry.charge_bytes;
}

void EvictionQueue::Leave(Entry& entry, bool evicted, size_t n_objects) {
  if (entry.queue != Entry::Queue::kSmall) return;
  small_bytes_ -= entry.charge_bytes;
  if (evicted) ghosts_.Add(entry.head.key, n_objects);
}

void EvictionQueue::Use(Entry& entry) {
  if (entry.queue == Entry::Queue::kMain) return Restamp(entry, entry.queue);
  entry.used = true;
}

void EvictionQueue::List(Entry& leaf) {
  const size_t queue = Index(leaf.queue);
  Candidates& candidates = leaf.tenant->candidates[queue];
  if (!candidates.empty()) heads_[queue].erase({candidates.begin()->first, leaf.tenant});
  candidates.emplace(leaf.stamp, &leaf);
  heads_[queue].emplace(candidates.begin()->first, leaf.tenant);
  leaf_bytes_[queue] += leaf.charge_bytes;
}

void EvictionQueue::Unlist(Entry& leaf) {
  const size_t queue = Index(leaf.queue);
  Candidates& candidates = leaf.tenant->candidates[queue];
  heads_[queue].erase({candidates.begin()->first, leaf.tenant});
  const size_t n_erased = candidates.erase({leaf.stamp, &leaf});
  LONGSHELF_CHECK(n_erased == 1);
  if (!candidates.empty()) heads_[queue].emplace(candidates.begin()->first, leaf.tenant);
  leaf_bytes_[queue] -= leaf.charge_bytes;
}

void EvictionQueue::SetRank(Entry& entry, Entry::Rank rank) {
  if (entry.rank == Entry::Rank::kLeaf) Unlist(entry);
  if (entry.rank == Entry::Rank::kUnderHeld) under_held_.erase({entry.stamp, &entry});
  entry.rank = rank;
  if (rank == Entry::Rank::kLeaf) List(entry);
  if (rank == Entry::Rank::kUnderHeld) under_held_.emplace(entry.stamp, &entry);
}

void EvictionQueue::Restamp(Entry& entry, Entry::Queue queue) {
  const Entry::Rank rank = entry.rank;
  SetRank(entry, Entry::Rank::kNone);
  entry.queue = queue;
  entry.stamp = next_stamp_++;
  SetRank(entry, rank);
}

bool EvictionQueue::Promote(Entry& entry) {
  if (entry.queue == Entry::Queue::kMain) return false;
  small_bytes_ -= entry.charge_bytes;
  Restamp(entry, Entry::Queue::kMain);
  return true;
}

Entry* EvictionQueue::FrontOf(Entry::Queue queue, uint64_t floor_bytes) const {
  for (const auto& [stamp, tenant] : heads_[Index(queue)]) {
    if (tenant->bytes > floor_bytes) return tenant->candidates[Index(queue)].begin()->second;
  }
  return nullptr;
}

Entry* EvictionQueue::Front(size_t n_tenants) const {
  const bool small_first = SmallExcess() > 0;
  const Entry::Queue first = small_first ? Entry::Queue::kSmall : Entry::Queue::kMain;
  const Entry::Queue second = small_first ? Entry::Queue::kMain : Entry::Queue::kSmall;
  const uint64_t floor_bytes = options_.floor_bytes / std::max<size_t>(n_tenants, 1);
  // When nobody is over his floor, floors cannot all be kept, and the usual order holds.
  for (const uint64_t floor : {floor_bytes, uint64_t{0}}) {
    if (Entry* entry = FrontOf(first, floor); entry != nullptr) return entry;
    if (Entry* entry = FrontOf(second, floor); entry != nullptr) return entry;
  }
  return under_held_.empty() ? nullptr : under_held_.begin()->second;
}

bool EvictionQueue::Spare(Entry& front) { return front.used && front.rank == Entry::Rank::kLeaf && Promote(front); }

}  // namespace longshelf::kvstore
