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
  AdaptSmallLimit(entry);
  small_ghosts_.Remove(entry.head.key);
  main_ghosts_.Remove(entry.head.key);
  if (entry.queue == Entry::Queue::kSmall) small_bytes_ += entry.charge_bytes;
  Resize(*entry.tenant, entry.tenant->bytes + entry.charge_bytes);
}

void EvictionQueue::AdaptSmallLimit(const Entry& entry) {
  // By as much as came back; by more when those that could tell the opposite are more.
  const auto step = [&](const GhostQueue& told, const GhostQueue& other) {
    return entry.charge_bytes * std::max<size_t>(1, other.size() / std::max<size_t>(told.size(), 1));
  };
  const uint64_t min = options_.small_limit_bytes / 2;
  const uint64_t max = std::max(options_.capacity_bytes - min, options_.small_limit_bytes);
  if (small_ghosts_.Has(entry.head.key)) {
    small_limit_bytes_ += std::min(step(small_ghosts_, main_ghosts_), max - small_limit_bytes_);
  } else if (main_ghosts_.Has(entry.head.key)) {
    small_limit_bytes_ -= std::min(step(main_ghosts_, small_ghosts_), small_limit_bytes_ - min);
  }
}

void EvictionQueue::Leave(Entry& entry, bool evicted, size_t n_objects) {
  Resize(*entry.tenant, entry.tenant->bytes - entry.charge_bytes);
  const bool is_small = entry.queue == Entry::Queue::kSmall;
  if (is_small) small_bytes_ -= entry.charge_bytes;
  if (evicted) (is_small ? small_ghosts_ : main_ghosts_).Add(entry.head.key, n_objects);
}

void EvictionQueue::Use(Entry& entry) {
  if (entry.queue == Entry::Queue::kMain) return Restamp(entry, entry.queue);
  entry.used = true;
}

void EvictionQueue::Resize(Tenant& tenant, uint64_t bytes) {
  by_bytes_.erase({tenant.bytes, &tenant});
  tenant.bytes = bytes;
  if (bytes > 0) by_bytes_.emplace(bytes, &tenant);
  SetOver(tenant, bytes > floor_bytes_);
  SetFloor();
}

void EvictionQueue::SetFloor() {
  const size_t n = std::max<size_t>(by_bytes_.size(), 1);
  // Not for every namespace that comes or goes: many may be of one size, and change sides together.
  if ((n > n_floors_ ? n - n_floors_ : n_floors_ - n) * 100 < std::max<size_t>(n_floors_, 100)) return;
  n_floors_ = n;
  const uint64_t before = std::exchange(floor_bytes_, options_.floor_bytes / n);
  const auto [low, high] = std::minmax(before, floor_bytes_);
  for (auto it = by_bytes_.lower_bound({low + 1, nullptr}); it != by_bytes_.end() && it->first <= high; ++it) {
    SetOver(*it->second, it->first > floor_bytes_);
  }
}

void EvictionQueue::SetOver(Tenant& tenant, bool over) {
  if (tenant.over_floor == over) return;
  for (const size_t queue : {0, 1}) {
    if (tenant.candidates[queue].empty()) continue;
    const std::pair<uint64_t, Tenant*> head{tenant.candidates[queue].begin()->first, &tenant};
    heads_[!over][queue].erase(head);
    heads_[over][queue].insert(head);
  }
  tenant.over_floor = over;
}

void EvictionQueue::List(Entry& leaf) {
  const size_t queue = Index(leaf.queue);
  Candidates& candidates = leaf.tenant->candidates[queue];
  Tenants& heads = heads_[leaf.tenant->over_floor][queue];
  if (!candidates.empty()) heads.erase({candidates.begin()->first, leaf.tenant});
  candidates.emplace(leaf.stamp, &leaf);
  heads.emplace(candidates.begin()->first, leaf.tenant);
  leaf_bytes_[queue] += leaf.charge_bytes;
}

void EvictionQueue::Unlist(Entry& leaf) {
  const size_t queue = Index(leaf.queue);
  Candidates& candidates = leaf.tenant->candidates[queue];
  Tenants& heads = heads_[leaf.tenant->over_floor][queue];
  heads.erase({candidates.begin()->first, leaf.tenant});
  const size_t n_erased = candidates.erase({leaf.stamp, &leaf});
  LONGSHELF_CHECK(n_erased == 1);
  if (!candidates.empty()) heads.emplace(candidates.begin()->first, leaf.tenant);
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

Entry* EvictionQueue::FrontOf(Entry::Queue queue, bool over) const {
  const Tenants& heads = heads_[over][Index(queue)];
  return heads.empty() ? nullptr : heads.begin()->second->candidates[Index(queue)].begin()->second;
}

Entry* EvictionQueue::Front() const {
  const bool small_first = SmallExcess() > 0;
  const Entry::Queue first = small_first ? Entry::Queue::kSmall : Entry::Queue::kMain;
  const Entry::Queue second = small_first ? Entry::Queue::kMain : Entry::Queue::kSmall;
  // When nobody is over his floor, floors cannot all be kept, and the usual order holds.
  for (const bool over : {true, false}) {
    if (Entry* entry = FrontOf(first, over); entry != nullptr) return entry;
    if (Entry* entry = FrontOf(second, over); entry != nullptr) return entry;
  }
  return under_held_.empty() ? nullptr : under_held_.begin()->second;
}

bool EvictionQueue::Spare(Entry& front) { return front.used && front.rank == Entry::Rank::kLeaf && Promote(front); }

}  // namespace longshelf::kvstore
