#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/cache_objects.h"
#include "engine/observer.h"

namespace longshelf::worker {

// One event for one subscriber.
struct WatchUpdate {
  bool snapshot = false;  // `gained` is the start of the whole index: forget what you knew
  std::vector<engine::CachedCheckpoint> gained;
  std::vector<engine::PrefixKey> lost;
  engine::Load load;
};

// What the engine says about itself, kept for whoever watches. Each subscriber has a bounded set of pending changes in
// which the last word about a key wins; one that falls behind by more than that starts over with a snapshot.
// Written by the engine thread, read by the edge's pump. The mutex guards index, load and subscribers: a message per
// change would need an unbounded queue, or could lose a change without anything left to take a snapshot from.
class WatchHub {
 public:
  struct Options {
    size_t n_subscribers_max = 64;
    size_t n_pending_max = 8192;         // changes per subscriber before it gets a snapshot instead
    size_t n_entries_per_update = 8192;  // at most 72 bytes each on the wire
    absl::Duration load_period_changing = absl::Milliseconds(150);
    absl::Duration load_period_idle = absl::Milliseconds(900);
  };
  using SubscriberId = uint64_t;

  WatchHub() : WatchHub(Options()) {}
  explicit WatchHub(const Options& options) : options_(options) {}

  // Called without the lock when a change arrives while somebody subscribes. Set before the engine runs.
  void set_on_change(std::function<void()> on_change) { on_change_ = std::move(on_change); }

  void OnLoad(const engine::Load& load);
  void OnCheckpointsChanged(const std::vector<engine::CachedCheckpoint>& gained,
                            const std::vector<engine::PrefixKey>& lost);
  engine::Load load() const;

  // RESOURCE_EXHAUSTED: too many subscribers.
  absl::StatusOr<SubscriberId> Subscribe();
  void Unsubscribe(SubscriberId id);
  // What to send to this subscriber now, if anything: the snapshot first, then changes, and the load when it is due.
  std::optional<WatchUpdate> Next(SubscriberId id, absl::Time now);
  size_t n_subscribers() const;
  uint64_t n_resyncs() const;

 private:
  struct Subscriber {
    bool needs_snapshot = true;
    std::deque<engine::CachedCheckpoint> snapshot_rest;  // of a snapshot that takes several updates
    std::map<engine::PrefixKey, std::optional<engine::CachedCheckpoint>> pending;  // no value = lost
    absl::Time load_sent_at = absl::InfinitePast();
    uint64_t load_version_sent = 0;
  };

  void Note(Subscriber& subscriber, const engine::PrefixKey& key,
            const std::optional<engine::CachedCheckpoint>& checkpoint);
  void FillFromSnapshot(Subscriber& subscriber, WatchUpdate& update);
  void FillFromPending(Subscriber& subscriber, WatchUpdate& update) const;

  const Options options_;
  std::function<void()> on_change_;
  mutable std::mutex mutex_;
  std::map<engine::PrefixKey, engine::CachedCheckpoint> index_;
  engine::Load load_;
  uint64_t load_version_ = 1;
  std::map<SubscriberId, Subscriber> subscribers_;
  SubscriberId next_id_ = 1;
  uint64_t n_resyncs_ = 0;
};

}  // namespace longshelf::worker
