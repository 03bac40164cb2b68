#include "disk_index.h"

#include <algorithm>
#include <tuple>

#include "listing.h"
#include "record_format.h"

namespace longshelf::kvstore::disk {
namespace {

// Objects of a namespace that one hold of the lock removes: lookups wait for it.
constexpr size_t kErasedAtOnce = 64;

uint64_t BytesOf(const ObjectHead& head) { return kSectorBytes + PaddedBytes(head.payload_bytes); }

}  // namespace

void DiskIndex::Erase(Entries::iterator it) {
  const DiskEntry& entry = it->second;
  live_bytes_ -= BytesOf(entry.head);
  if (retained_.erase({entry.head.retain_until, it->first}) > 0) retained_bytes_ -= BytesOf(entry.head);
  if (it->first.kind == ObjectKind::kCheckpoint) {
    checkpoints_.erase({entry.head.parent, entry.head.depth_tokens, it->first.hash});
  }
  if (it->first.kind == ObjectKind::kManifest) manifests_.erase({entry.head.parent, it->first.hash});
  const auto tenant = namespaces_.find(entry.head.namespace_id);
  tenant->second.erase(it->first);
  if (tenant->second.empty()) namespaces_.erase(tenant);
  entries_.erase(it);
}

void DiskIndex::Promise(DiskEntry& entry, absl::Time until) {
  if (retained_.erase({entry.head.retain_until, entry.head.key}) > 0) retained_bytes_ -= BytesOf(entry.head);
  entry.head.object_class = ObjectClass::kParked;
  entry.head.retain_until = until;
  retained_.emplace(until, entry.head.key);
  retained_bytes_ += BytesOf(entry.head);
}

void DiskIndex::Insert(const ObjectHead& head, const Place& place) {
  std::lock_guard lock(mutex_);
  if (dropping_.contains(head.key) || dropping_namespaces_.contains(head.namespace_id)) return;
  absl::Time promised = absl::InfinitePast();
  if (const auto it = entries_.find(head.key); it != entries_.end()) {
    if (it->second.head.object_class == ObjectClass::kParked) promised = it->second.head.retain_until;
    Erase(it);
  }
  DiskEntry& entry = entries_[head.key];
  entry = {.head = head, .place = place};
  live_bytes_ += BytesOf(head);
  segments_[place.sequence].push_back(head.key);
  namespaces_[head.namespace_id].insert(head.key);
  if (head.key.kind == ObjectKind::kCheckpoint) checkpoints_.insert({head.parent, head.depth_tokens, head.key.hash});
  if (head.key.kind == ObjectKind::kManifest) manifests_.emplace(head.parent, head.key.hash);
  if (head.object_class == ObjectClass::kParked) {
    entry.noted_until = head.retain_until;
    promised = std::max(promised, head.retain_until);
  }
  if (promised != absl::InfinitePast()) Promise(entry, promised);
}

void DiskIndex::Move(const ObjectKey& key, const Place& from, const Place& to) {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.place != from) return;
  it->second.place = to;
  it->second.used = false;
  segments_[to.sequence].push_back(key);
}

std::optional<DiskEntry> DiskIndex::Find(const ObjectKey& key) const {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  return it == entries_.end() ? std::nullopt : std::optional(it->second);
}

bool DiskIndex::Has(const ObjectKey& key, const Fingerprint& fingerprint) const {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  return it != entries_.end() && it->second.head.fingerprint == fingerprint;
}

void DiskIndex::Touch(const ObjectKey& key) {
  std::lock_guard lock(mutex_);
  if (const auto it = entries_.find(key); it != entries_.end()) it->second.used = true;
}

Retention DiskIndex::Retain(const ObjectKey& key, absl::Time until, absl::Time now, uint64_t limit_bytes) {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) return Retention::kAbsent;
  DiskEntry& entry = it->second;
  if (entry.noted_until >= until) return Retention::kNoted;
  Expire(now);
  if (!entry.head.IsRetained(now) && retained_bytes_ + BytesOf(entry.head) > limit_bytes) return Retention::kNoRoom;
  if (entry.head.object_class != ObjectClass::kParked || entry.head.retain_until < until) Promise(entry, until);
  entry.noted_until = until;
  return Retention::kNew;
}

std::optional<Place> DiskIndex::Extend(const ObjectKey& key, absl::Time until) {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) return std::nullopt;
  DiskEntry& entry = it->second;
  if (entry.head.object_class != ObjectClass::kParked || entry.head.retain_until < until) Promise(entry, until);
  entry.noted_until = std::max(entry.noted_until, until);
  return entry.place;
}

void DiskIndex::Unnote(const ObjectKey& key) {
  std::lock_guard lock(mutex_);
  // Another record may say it all the same: then one more will.
  if (const auto it = entries_.find(key); it != entries_.end()) it->second.noted_until = it->second.durable_until;
}

void DiskIndex::MarkDurable(const ObjectKey& key, const Place& place, absl::Time until) {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.place != place) return;
  it->second.durable_until = std::max(it->second.durable_until, until);
}

void DiskIndex::MarkAllDurable() {
  std::lock_guard lock(mutex_);
  for (const auto& [until, key] : retained_) entries_.at(key).durable_until = until;
}

void DiskIndex::RevertToDurable() {
  std::lock_guard lock(mutex_);
  for (const auto& [until, key] : std::set(retained_)) {
    DiskEntry& entry = entries_.at(key);
    entry.noted_until = entry.durable_until;
    if (until <= entry.durable_until) continue;
    if (entry.durable_until != absl::InfinitePast()) {
      Promise(entry, entry.durable_until);
      continue;
    }
    retained_.erase({until, key});
    retained_bytes_ -= BytesOf(entry.head);
    entry.head.object_class = ObjectClass::kCache;
  }
}

bool DiskIndex::Remove(const ObjectKey& key) {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) return false;
  Erase(it);
  return true;
}

bool DiskIndex::RemoveAt(const ObjectKey& key, const Place& place) {
  std::lock_guard lock(mutex_);
  return EraseAt(key, place);
}

bool DiskIndex::EraseAt(const ObjectKey& key, const Place& place) {
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.place != place) return false;
  Erase(it);
  return true;
}

bool DiskIndex::BeginDropAt(const ObjectKey& key, const Place& place) {
  std::lock_guard lock(mutex_);
  if (!EraseAt(key, place)) return false;
  dropping_.insert(key);
  return true;
}

uint64_t DiskIndex::BeginDrop(std::span<const ObjectKey> keys) {
  std::lock_guard lock(mutex_);
  return EraseKeys(keys);
}

std::set<ObjectKey> DiskIndex::BeginDropCache(std::vector<ObjectKey>& keys, absl::Time now) {
  std::lock_guard lock(mutex_);
  std::erase_if(keys, [&](const ObjectKey& key) {
    const auto it = entries_.find(key);
    return it != entries_.end() && it->second.head.IsRetained(now);
  });
  std::set<ObjectKey> present;
  for (const ObjectKey& key : keys) {
    if (entries_.contains(key)) present.insert(key);
  }
  EraseKeys(keys);
  return present;
}

uint64_t DiskIndex::EraseKeys(std::span<const ObjectKey> keys) {
  uint64_t n_removed = 0;
  for (const ObjectKey& key : keys) {
    dropping_.insert(key);
    const auto it = entries_.find(key);
    if (it == entries_.end()) continue;
    Erase(it);
    ++n_removed;
  }
  return n_removed;
}

uint64_t DiskIndex::BeginDropNamespaces(const std::set<std::string>& namespace_ids) {
  {
    std::lock_guard lock(mutex_);
    dropping_namespaces_.insert(namespace_ids.begin(), namespace_ids.end());
  }
  uint64_t n_removed = 0;
  for (const std::string& id : namespace_ids) n_removed += RemoveNamespace(id);
  return n_removed;
}

void DiskIndex::EndDrop(const ObjectKey& key) {
  std::lock_guard lock(mutex_);
  if (const auto it = dropping_.find(key); it != dropping_.end()) dropping_.erase(it);
}

void DiskIndex::EndDropNamespace(const std::string& namespace_id) {
  std::lock_guard lock(mutex_);
  const auto it = dropping_namespaces_.find(namespace_id);
  if (it != dropping_namespaces_.end()) dropping_namespaces_.erase(it);
}

uint64_t DiskIndex::RemoveNamespace(const std::string& namespace_id) {
  for (uint64_t n_removed = 0;;) {
    std::lock_guard lock(mutex_);
    for (size_t n = 0; n < kErasedAtOnce; ++n) {
      const auto tenant = namespaces_.find(namespace_id);
      if (tenant == namespaces_.end()) return n_removed;
      Erase(entries_.find(*tenant->second.begin()));
      ++n_removed;
    }
  }
}

std::vector<ObjectHead> DiskIndex::CheckpointsUnder(const BlockKey& parent, size_t n_max) const {
  std::lock_guard lock(mutex_);
  std::vector<ObjectHead> heads;
  for (auto it = checkpoints_.lower_bound({parent, UINT32_MAX, BlockKey{}});
       it != checkpoints_.end() && it->parent == parent && heads.size() < n_max; ++it) {
    heads.push_back(entries_.at({it->hash, ObjectKind::kCheckpoint}).head);
  }
  return heads;
}

std::vector<ObjectHead> DiskIndex::Retained(absl::Time& until, ObjectKey& key, size_t n_max) const {
  std::lock_guard lock(mutex_);
  std::vector<ObjectHead> heads;
  for (auto it = retained_.upper_bound({until, key}); it != retained_.end() && heads.size() < n_max; ++it) {
    heads.push_back(entries_.at(it->second).head);
    std::tie(until, key) = *it;
  }
  return heads;
}

std::vector<ObjectHead> DiskIndex::Manifests(const ListQuery& query) const {
  std::lock_guard lock(mutex_);
  std::vector<ObjectHead> heads;
  for (auto it = manifests_.lower_bound({query.parent, FirstListed(query)});
       it != manifests_.end() && it->first == query.parent && heads.size() < query.limit; ++it) {
    if (!IsListed(query, it->second)) {
      if (it->second == query.after) continue;
      break;
    }
    heads.push_back(entries_.at({it->second, ObjectKind::kManifest}).head);
  }
  return heads;
}

std::vector<DiskEntry> DiskIndex::LiveIn(uint64_t sequence) const {
  std::lock_guard lock(mutex_);
  std::vector<DiskEntry> live;
  const auto segment = segments_.find(sequence);
  if (segment == segments_.end()) return live;
  for (const ObjectKey& key : segment->second) {
    const auto it = entries_.find(key);
    if (it != entries_.end() && it->second.place.sequence == sequence) live.push_back(it->second);
  }
  // A key that was removed and written again in one segment is in the list twice.
  std::sort(live.begin(), live.end(), [](const DiskEntry& a, const DiskEntry& b) { return a.place < b.place; });
  const auto same = [](const DiskEntry& a, const DiskEntry& b) { return a.place == b.place; };
  live.erase(std::unique(live.begin(), live.end(), same), live.end());
  return live;
}

std::set<std::string> DiskIndex::Namespaces() const {
  std::lock_guard lock(mutex_);
  std::set<std::string> namespaces;
  for (const auto& [id, keys] : namespaces_) namespaces.insert(namespaces.end(), id);
  return namespaces;
}

std::vector<uint64_t> DiskIndex::Sequences() const {
  std::lock_guard lock(mutex_);
  std::vector<uint64_t> sequences;
  for (const auto& [sequence, keys] : segments_) sequences.push_back(sequence);
  return sequences;
}

std::optional<uint64_t> DiskIndex::ForgetSegment(uint64_t sequence, absl::Time now) {
  std::lock_guard lock(mutex_);
  const auto segment = segments_.find(sequence);
  if (segment == segments_.end()) return 0;
  const auto find = [&](const ObjectKey& key) {
    const auto it = entries_.find(key);
    return it != entries_.end() && it->second.place.sequence == sequence ? it : entries_.end();
  };
  for (const ObjectKey& key : segment->second) {
    if (const auto it = find(key); it != entries_.end() && it->second.head.IsRetained(now)) return std::nullopt;
  }
  uint64_t n_removed = 0;
  for (const ObjectKey& key : segment->second) {
    const auto it = find(key);
    if (it == entries_.end()) continue;
    Erase(it);
    ++n_removed;
  }
  segments_.erase(segment);
  return n_removed;
}

uint64_t DiskIndex::n_objects() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

uint64_t DiskIndex::live_bytes() const {
  std::lock_guard lock(mutex_);
  return live_bytes_;
}

uint64_t DiskIndex::RetainedBytes(absl::Time now) {
  std::lock_guard lock(mutex_);
  Expire(now);
  return retained_bytes_;
}

void DiskIndex::Expire(absl::Time now) {
  while (!retained_.empty() && retained_.begin()->first <= now) {
    retained_bytes_ -= BytesOf(entries_.at(retained_.begin()->second).head);
    retained_.erase(retained_.begin());
  }
}

}  // namespace longshelf::kvstore::disk
