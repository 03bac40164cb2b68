#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "absl/time/time.h"
#include "common/clock.h"
#include "router/api_error.h"
#include "router/dispatcher.h"
#include "router/session_store.h"
#include "session_drops.h"
#include "session_table.h"
#include "version_clock.h"

namespace longshelf::router {

// Parks that are under way: first a worker parks the state, then the manifest is stored. Those of one answer store
// theirs one after another. Owner: the router loop.
class SessionParks {
 public:
  using EntryPtr = std::shared_ptr<SessionEntry>;
  using Done = std::function<void(std::variant<SessionInfo, ApiError>)>;

  // Everything must outlive this.
  SessionParks(Clock& clock, VersionClock& versions, Dispatcher& dispatcher, SessionStore& store, SessionDrops& drops)
      : clock_(clock), versions_(versions), dispatcher_(dispatcher), store_(store), drops_(drops) {}

  // Ends the answer where it is. When the store is not there, the manifest is offered `n_tries` times in all. What a
  // worker has parked for a session that was not stored in the end is dropped.
  void Park(const EntryPtr& entry, ParkTerms terms, uint32_t n_tries, Done done);
  // The session was deleted: parks of it come to nothing. An answer that was being parked, if there is one.
  EntryPtr Cancel(const Tenant& tenant, const std::string& id);
  // Times of the cards that are being made of the answer that `entry` goes on with: the newest.
  absl::Time NewestOf(const SessionEntry& entry) const;
  // Nothing waits for workers any more: the tokens alone are stored. What waits to be offered again is offered now.
  void LeaveWorkers();
  // Whoever waits is told that this router ends, and whoever comes; what is being stored may be stored all the same.
  void Stop();
  bool is_stopped() const { return is_stopped_; }
  // Now and then.
  void Tick();
  size_t n_running() const { return running_.size(); }

 private:
  struct Manifest {
    EntryPtr entry;
    SessionInfo info;
    uint32_t n_tries = 1;
    absl::Duration pause;
    bool is_queued = false;
    bool waits_for_worker = false;
    Done done;  // null once it was called
  };
  using ManifestPtr = std::shared_ptr<Manifest>;
  struct Retry {
    absl::Time at;
    ManifestPtr manifest;
  };

  void OnParked(const ManifestPtr& manifest, const absl::StatusOr<ParkedState>& parked);
  void KeepState(const ManifestPtr& manifest, std::string_view missing);
  void Enqueue(const ManifestPtr& manifest);
  void Store(const ManifestPtr& manifest);
  void OnStored(const ManifestPtr& manifest, const absl::StatusOr<SessionStore::Stored>& stored);
  void OnNotStored(const ManifestPtr& manifest, const absl::Status& why);
  void End(const ManifestPtr& manifest, const std::variant<SessionInfo, ApiError>& result);
  static void Answer(const ManifestPtr& manifest, const std::variant<SessionInfo, ApiError>& result);
  std::optional<ParkedKv> KvOf(const SessionEntry& entry, const ParkedState& state) const;

  Clock& clock_;
  VersionClock& versions_;
  Dispatcher& dispatcher_;
  SessionStore& store_;
  SessionDrops& drops_;
  std::multimap<std::pair<std::string, std::string>, ManifestPtr> running_;  // by tenant and id
  std::list<Retry> retries_;
  bool leaves_workers_ = false;
  bool is_stopped_ = false;
};

}  // namespace longshelf::router
