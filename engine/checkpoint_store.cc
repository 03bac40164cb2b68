#include "checkpoint_store.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "engine/model/kv_layout.h"

namespace longshelf::engine {
namespace {

uint64_t BytesOf(const Checkpoint& checkpoint) {
  return sizeof(Checkpoint) + (checkpoint.state == nullptr ? 0 : checkpoint.state->n_bytes()) +
         (checkpoint.tail == nullptr ? 0 : checkpoint.tail->n_bytes());
}

}  // namespace

void CheckpointStore::Insert(std::shared_ptr<const Checkpoint> checkpoint, std::vector<PrefixKey>& evicted) {
  if (Contains(checkpoint->key)) {
    Touch(checkpoint->key);
    return;
  }
  n_bytes_ += BytesOf(*checkpoint);
  Family& family = families_[checkpoint->parent];
  family.keys.push_back(checkpoint->key);
  if (const int64_t n_tail = checkpoint->n_tokens % kBlockTokens; n_tail > 0) ++family.n_by_tail_length[n_tail];
  const PrefixKey key = checkpoint->key;
  entries_.emplace(key, order_.insert(order_.end(), Entry{std::move(checkpoint)}));
  while (n_bytes_ > bytes_max_) {
    const PrefixKey oldest = order_.front().checkpoint->key;
    evicted.push_back(oldest);
    Erase(oldest);
  }
}

std::shared_ptr<const Checkpoint> CheckpointStore::Find(const PrefixKey& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : it->second->checkpoint;
}

void CheckpointStore::Touch(const PrefixKey& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  it->second->is_used = true;
  order_.splice(order_.end(), order_, it->second);
}

void CheckpointStore::EraseUnused(const std::vector<PrefixKey>& keys, std::vector<PrefixKey>& erased) {
  for (const PrefixKey& key : keys) {
    const auto it = entries_.find(key);
    if (it == entries_.end() || it->second->is_used) continue;
    erased.push_back(key);
    Erase(key);
  }
}

void CheckpointStore::Erase(const PrefixKey& key) {
  const auto it = entries_.find(key);
  LONGSHELF_CHECK(it != entries_.end());
  const std::shared_ptr<const Checkpoint> gone = it->second->checkpoint;
  n_bytes_ -= BytesOf(*gone);
  order_.erase(it->second);
  entries_.erase(it);
  const auto family = families_.find(gone->parent);
  std::erase(family->second.keys, gone->key);
  if (const int64_t n_tail = gone->n_tokens % kBlockTokens; n_tail > 0) {
    const auto length = family->second.n_by_tail_length.find(n_tail);
    if (--length->second == 0) family->second.n_by_tail_length.erase(length);
  }
  if (family->second.keys.empty()) families_.erase(family);
}

void CheckpointStore::EraseFamily(const PrefixKey& parent, std::vector<PrefixKey>& erased) {
  const auto family = families_.find(parent);
  if (family == families_.end()) return;
  const std::vector<PrefixKey> keys = family->second.keys;
  for (const PrefixKey& key : keys) {
    erased.push_back(key);
    Erase(key);
  }
}

std::vector<int64_t> CheckpointStore::TailLengths(const PrefixKey& parent) const {
  std::vector<int64_t> lengths;
  if (const auto family = families_.find(parent); family != families_.end()) {
    const auto& by_length = family->second.n_by_tail_length;
    for (auto it = by_length.rbegin(); it != by_length.rend(); ++it) lengths.push_back(it->first);
  }
  return lengths;
}

}  // namespace longshelf::engine
