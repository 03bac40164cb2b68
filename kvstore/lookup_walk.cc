#include "lookup_walk.h"

#include <algorithm>
#include <utility>

namespace longshelf::kvstore {
namespace {

// About 20 microseconds when every key misses the processor's caches.
constexpr size_t kKeysPerStep = 64;

}  // namespace

bool LookupWalk::Step() {
  switch (stage_) {
    case Stage::kForward:
      Forward(kKeysPerStep);
      break;
    case Stage::kBack:
      Back(kKeysPerStep);
      break;
    case Stage::kProbes:
      Probe(kKeysPerStep);
      break;
    case Stage::kDone:
      break;
  }
  return stage_ != Stage::kDone;
}

Entry* LookupWalk::Find(const BlockKey& hash, ObjectKind kind) const {
  Entry* entry = index_.Find(ObjectKey{hash, kind});
  return entry != nullptr && entry->head.fingerprint == query_.fingerprint ? entry : nullptr;
}

void LookupWalk::Forward(size_t n_keys) {
  const size_t end = std::min(query_.chain.size(), position_ + n_keys);
  while (position_ < end && Find(query_.chain[position_], ObjectKind::kBlock) != nullptr) ++position_;
  if (position_ == end && end < query_.chain.size()) return;
  result_.n_present = static_cast<uint32_t>(position_);
  StartListing();
  stage_ = Stage::kBack;
}

void LookupWalk::Back(size_t n_keys) {
  for (; position_ > 0 && n_keys > 0; --n_keys) {
    const BlockKey& hash = query_.chain[--position_];
    Entry* entry = Find(hash, ObjectKind::kBlock);
    if (entry == nullptr) {
      result_.n_present = static_cast<uint32_t>(position_);
      StartListing();
      continue;
    }
    index_.Touch(*entry);
    if (!query_.want_checkpoints) continue;
    ListTails(hash);
    if (n_boundaries_ >= kMaxListedBoundaries) continue;
    // The checkpoint at the end of a block has the block's name.
    if (const Entry* boundary = Find(hash, ObjectKind::kCheckpoint); boundary != nullptr) {
      List(*boundary);
      ++n_boundaries_;
    }
  }
  if (position_ > 0) return;
  stage_ = query_.want_checkpoints ? Stage::kProbes : Stage::kDone;
  if (query_.want_checkpoints) ListTails(query_.root);
}

void LookupWalk::Probe(size_t n_keys) {
  const size_t end = std::min(query_.probes.size(), position_ + n_keys);
  for (; position_ < end; ++position_) {
    if (const Entry* found = Find(query_.probes[position_], ObjectKind::kCheckpoint); found != nullptr) List(*found);
  }
  if (position_ == query_.probes.size()) stage_ = Stage::kDone;
}

void LookupWalk::StartListing() {
  result_.checkpoints.clear();
  // Children of another fingerprint are not listed; this bounds how many of them are stepped over.
  n_steps_left_ = 16 * kMaxListedTails;
  n_tails_ = 0;
  n_boundaries_ = 0;
}

void LookupWalk::ListTails(const BlockKey& parent) {
  index_.VisitCheckpoints(parent, [&](const Entry& checkpoint) {
    if (n_tails_ >= kMaxListedTails || n_steps_left_ == 0) return false;
    --n_steps_left_;
    if (checkpoint.head.key.hash == parent || checkpoint.head.fingerprint != query_.fingerprint) return true;
    List(checkpoint);
    ++n_tails_;
    return true;
  });
}

void LookupWalk::List(const Entry& checkpoint) {
  CheckpointInfo info;
  info.hash = checkpoint.head.key.hash;
  info.parent = checkpoint.head.parent;
  info.depth_tokens = checkpoint.head.depth_tokens;
  info.payload_bytes = checkpoint.head.payload_bytes;
  if (const Entry* tail = Find(info.hash, ObjectKind::kTail); tail != nullptr) {
    info.has_tail = true;
    info.tail_bytes = tail->head.payload_bytes;
  }
  result_.checkpoints.push_back(info);
}

}  // namespace longshelf::kvstore
