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

bool LookupWalk::HasBlock(const BlockKey& hash, bool use) {
  const ObjectKey key{hash, ObjectKind::kBlock};
  if (Entry* entry = index_.Find(key); entry != nullptr) {
    if (entry->head.fingerprint != query_.fingerprint) return false;
    if (use) index_.Touch(*entry);
    return true;
  }
  if (disk_ == nullptr || !disk_->Has(key, query_.fingerprint)) return false;
  if (use) disk_->Touch(key);
  return true;
}

std::optional<ObjectHead> LookupWalk::Find(const BlockKey& hash, ObjectKind kind) const {
  const ObjectKey key{hash, kind};
  std::optional<ObjectHead> head;
  if (const Entry* entry = index_.Find(key); entry != nullptr) {
    head = entry->head;
  } else if (disk_ != nullptr) {
    if (std::optional<disk::DiskEntry> on_disk = disk_->Find(key); on_disk.has_value()) head = std::move(on_disk->head);
  }
  if (head.has_value() && head->fingerprint != query_.fingerprint) head.reset();
  return head;
}

void LookupWalk::Forward(size_t n_keys) {
  const size_t end = std::min(query_.chain.size(), position_ + n_keys);
  while (position_ < end && HasBlock(query_.chain[position_], /*use=*/false)) ++position_;
  if (position_ == end && end < query_.chain.size()) return;
  result_.n_present = static_cast<uint32_t>(position_);
  StartListing();
  stage_ = Stage::kBack;
}

void LookupWalk::Back(size_t n_keys) {
  for (; position_ > 0 && n_keys > 0; --n_keys) {
    const BlockKey& hash = query_.chain[--position_];
    if (!HasBlock(hash, /*use=*/true)) {
      result_.n_present = static_cast<uint32_t>(position_);
      StartListing();
      continue;
    }
    if (!query_.want_checkpoints) continue;
    ListTails(hash);
    if (n_boundaries_ >= kMaxListedBoundaries) continue;
    // The checkpoint at the end of a block has the block's name.
    if (const auto boundary = Find(hash, ObjectKind::kCheckpoint); boundary.has_value()) {
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
    const auto found = Find(query_.probes[position_], ObjectKind::kCheckpoint);
    if (found.has_value()) List(*found);
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
  std::vector<ObjectHead> only_on_disk;
  if (disk_ != nullptr) only_on_disk = disk_->CheckpointsUnder(parent, kMaxListedTails);
  std::erase_if(only_on_disk, [&](const ObjectHead& head) {
    return head.fingerprint != query_.fingerprint || head.key.hash == parent || index_.Find(head.key) != nullptr;
  });
  std::sort(only_on_disk.begin(), only_on_disk.end(),
            [](const ObjectHead& a, const ObjectHead& b) { return a.depth_tokens > b.depth_tokens; });
  auto next = only_on_disk.begin();
  const auto list_from_disk = [&](uint32_t down_to_depth) {
    for (; next != only_on_disk.end() && next->depth_tokens > down_to_depth && n_tails_ < kMaxListedTails; ++next) {
      List(*next);
      ++n_tails_;
    }
  };
  index_.VisitCheckpoints(parent, [&](const Entry& checkpoint) {
    list_from_disk(checkpoint.head.depth_tokens);
    if (n_tails_ >= kMaxListedTails || n_steps_left_ == 0) return false;
    --n_steps_left_;
    if (checkpoint.head.key.hash == parent || checkpoint.head.fingerprint != query_.fingerprint) return true;
    List(checkpoint.head);
    ++n_tails_;
    return true;
  });
  list_from_disk(0);
}

void LookupWalk::List(const ObjectHead& checkpoint) {
  CheckpointInfo info;
  info.hash = checkpoint.key.hash;
  info.parent = checkpoint.parent;
  info.depth_tokens = checkpoint.depth_tokens;
  info.payload_bytes = checkpoint.payload_bytes;
  if (const auto tail = Find(info.hash, ObjectKind::kTail); tail.has_value()) {
    info.has_tail = true;
    info.tail_bytes = tail->payload_bytes;
  }
  result_.checkpoints.push_back(info);
}

}  // namespace longshelf::kvstore
