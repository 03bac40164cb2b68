#include "worker/watch_hub.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace longshelf::worker {

void WatchHub::OnLoad(const engine::Load& load) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    // Progress of the step counter alone can wait for the next tick; a change of what runs is worth a wake-up.
    wake = !subscribers_.empty() &&
           (load.n_running != load_.n_running || load.n_waiting != load_.n_waiting || load.draining != load_.draining);
    load_ = load;
    ++load_version_;
  }
  if (wake && on_change_) on_change_();
}

void WatchHub::OnCheckpointsChanged(const std::vector<engine::CachedCheckpoint>& gained,
                                    const std::vector<engine::PrefixKey>& lost) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    for (const engine::PrefixKey& key : lost) index_.erase(key);
    for (const engine::CachedCheckpoint& checkpoint : gained) index_[checkpoint.key] = checkpoint;
    for (auto& [id, subscriber] : subscribers_) {
      for (const engine::PrefixKey& key : lost) Note(subscriber, key, std::nullopt);
      for (const engine::CachedCheckpoint& checkpoint : gained) Note(subscriber, checkpoint.key, checkpoint);
    }
    wake = !subscribers_.empty();
  }
  if (wake && on_change_) on_change_();
}

void WatchHub::Note(Subscriber& subscriber, const engine::PrefixKey& key,
                    const std::optional<engine::CachedCheckpoint>& checkpoint) {
  if (subscriber.needs_snapshot) return;
  subscriber.pending[key] = checkpoint;
  if (subscriber.pending.size() <= options_.n_pending_max) return;
  subscriber.needs_snapshot = true;
  subscriber.pending.clear();
  subscriber.snapshot_rest.clear();
  ++n_resyncs_;
}

engine::Load WatchHub::load() const {
  std::lock_guard lock(mutex_);
  return load_;
}

absl::StatusOr<WatchHub::SubscriberId> WatchHub::Subscribe() {
  std::lock_guard lock(mutex_);
  if (subscribers_.size() >= options_.n_subscribers_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("Watch has ", options_.n_subscribers_max, " subscribers, the limit; close one first"));
  }
  const SubscriberId id = next_id_++;
  subscribers_[id];
  return id;
}

void WatchHub::Unsubscribe(SubscriberId id) {
  std::lock_guard lock(mutex_);
  subscribers_.erase(id);
}

std::optional<WatchUpdate> WatchHub::Next(SubscriberId id, absl::Time now) {
  std::lock_guard lock(mutex_);
  const auto found = subscribers_.find(id);
  if (found == subscribers_.end()) return std::nullopt;
  Subscriber& subscriber = found->second;
  const absl::Duration period =
      subscriber.load_version_sent == load_version_ ? options_.load_period_idle : options_.load_period_changing;
  const bool has_changes =
      subscriber.needs_snapshot || !subscriber.snapshot_rest.empty() || !subscriber.pending.empty();
  if (!has_changes && now - subscriber.load_sent_at < period) return std::nullopt;

  WatchUpdate update;
  if (subscriber.needs_snapshot || !subscriber.snapshot_rest.empty()) {
    FillFromSnapshot(subscriber, update);
  } else {
    FillFromPending(subscriber, update);
  }
  update.load = load_;
  subscriber.load_sent_at = now;
  subscriber.load_version_sent = load_version_;
  return update;
}

void WatchHub::FillFromSnapshot(Subscriber& subscriber, WatchUpdate& update) {
  if (subscriber.needs_snapshot) {
    update.snapshot = true;
    subscriber.needs_snapshot = false;
    subscriber.snapshot_rest.clear();
    for (const auto& [key, checkpoint] : index_) subscriber.snapshot_rest.push_back(checkpoint);
  }
  const size_t n = std::min(subscriber.snapshot_rest.size(), options_.n_entries_per_update);
  const auto end = subscriber.snapshot_rest.begin() + static_cast<std::ptrdiff_t>(n);
  update.gained.assign(subscriber.snapshot_rest.begin(), end);
  subscriber.snapshot_rest.erase(subscriber.snapshot_rest.begin(), end);
}

void WatchHub::FillFromPending(Subscriber& subscriber, WatchUpdate& update) const {
  size_t n = 0;
  auto it = subscriber.pending.begin();
  for (; it != subscriber.pending.end() && n < options_.n_entries_per_update; ++it, ++n) {
    if (it->second.has_value()) {
      update.gained.push_back(*it->second);
    } else {
      update.lost.push_back(it->first);
    }
  }
  subscriber.pending.erase(subscriber.pending.begin(), it);
}

size_t WatchHub::n_subscribers() const {
  std::lock_guard lock(mutex_);
  return subscribers_.size();
}

uint64_t WatchHub::n_resyncs() const {
  std::lock_guard lock(mutex_);
  return n_resyncs_;
}

}  // namespace longshelf::worker
