#include "engine/kv_copies.h"

#include <utility>

namespace longshelf::engine {

void KvCopies::Add(uint64_t number, Bytes bytes) {
  const std::lock_guard lock(mutex_);
  n_bytes_ += bytes->size();
  Bytes& held = copies_[number];
  if (held != nullptr) n_bytes_ -= held->size();
  held = std::move(bytes);
}

KvCopies::Bytes KvCopies::Find(uint64_t number) const {
  const std::lock_guard lock(mutex_);
  const auto it = copies_.find(number);
  return it == copies_.end() ? nullptr : it->second;
}

void KvCopies::Drop(uint64_t number) {
  Bytes gone;  // freed outside of the lock
  const std::lock_guard lock(mutex_);
  const auto it = copies_.find(number);
  if (it == copies_.end()) return;
  n_bytes_ -= it->second->size();
  gone = std::move(it->second);
  copies_.erase(it);
}

size_t KvCopies::size() const {
  const std::lock_guard lock(mutex_);
  return copies_.size();
}

uint64_t KvCopies::n_bytes() const {
  const std::lock_guard lock(mutex_);
  return n_bytes_;
}

}  // namespace longshelf::engine
