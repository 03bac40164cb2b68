#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "router/api_error.h"
#include "router/byte_budget.h"
#include "router/completion.h"
#include "router/dispatcher.h"
#include "router/namespaces.h"
#include "router/served_model.h"
#include "router/session.h"
#include "router/session_store.h"

namespace longshelf::router {

struct SessionEntry;
class SessionDrops;
class SessionParks;
class SessionTable;
class VersionClock;

// The request that goes on with an answer; `stream` over what its body says.
std::variant<ApiRequest, ApiError> RequestToResume(const Session& session, std::optional<bool> stream,
                                                   const ParseLimits& limits);

// The sessions of all tenants: what this router has answered lately, from memory, and what was parked, by any router,
// from the KV store. Owner: the router loop. Answers come on it, once, never from inside the call.
class Sessions {
 public:
  template <typename T>
  using Done = std::function<void(std::variant<T, ApiError>)>;

  struct Options {
    std::string tenant_secret;
    uint64_t memory_bytes = uint64_t{256} << 20;  // of idle ones; the longest unused are forgotten
    size_t sessions_max = 10'000;
    uint64_t busy_bytes_max = uint64_t{512} << 20;  // of those that are answered, parked or read back
  };

  // `store` and `namespaces` may be null: nothing can be parked then. Everything must outlive this.
  Sessions(Options options, const ServedModel& model, Clock& clock, Dispatcher& dispatcher, SessionStore* store,
           const Namespaces* namespaces);
  ~Sessions();

  // False: requests with sessions keep as much as they may; this one is to be refused. True without a session.
  bool HasRoomFor(const PreparedRequest& prepared) const;
  // An answer of a session was started; it takes the place of the session's last one. The recorder hears of it, and
  // parks it at its end when its request says so. REQUIRES: prepared.request.session is not empty.
  std::shared_ptr<AnswerRecorder> Begin(Completion& completion, const std::string& request_id);

  // Ends the answer where it is, if it is not complete, and stores everything that is needed to go on. Errors: 404; 409
  // when another answer of the session was parked meanwhile; 503 when the store is not there, 507 when it has no room
  // for the promise.
  void Park(const Tenant& tenant, const std::string& id, ParkTerms terms, Done<SessionInfo> done);
  // The session as it was parked last, or as this router knows it. 404.
  void Find(const Tenant& tenant, const std::string& id, Done<SessionInfo> done);
  // To go on with. 409: its answer is complete, is being made here, or is of other weights than those served now. 404,
  // 503. A few are read at a time, more wait, and beyond a bound they are refused.
  void LoadUnfinished(const Tenant& tenant, const std::string& id, Done<Session> done);
  bool has_store() const { return store_ != nullptr; }
  // What a router that ends should wait for.
  size_t n_parking() const;
  // A router that ends does not wait for its workers any more: what they have not parked is kept without its state.
  void LeaveWorkers();
  // And then for nothing: 503 for parks that are under way, and for those that come.
  void Stop();
  // A few times a second.
  void Tick();
  // Parked ones.
  void List(const Tenant& tenant, const std::string& after, uint32_t limit, Done<SessionStore::Page> done);
  // Ends its answer, and drops the session with those of its objects that no other parked session shares. 404; 503 when
  // the stores cannot be read, or none could be told, or it is parked again and again: it may still be there.
  void Delete(const Tenant& tenant, const std::string& id, Done<SessionInfo> done);

 private:
  using EntryPtr = std::shared_ptr<SessionEntry>;
  using OnLatest = std::function<void(const EntryPtr& entry, absl::StatusOr<SessionInfo> card)>;

  EntryPtr NewEntry(const Tenant& tenant);
  // An answer that begins stands on all that was parked or deleted before, whatever the clocks of other routers say.
  void Place(const EntryPtr& entry);
  // Cards of the answer that `entry` goes on with, stored since it was read or being stored: it stands on them too.
  absl::Time NewestOwnCard(const SessionEntry& entry) const;
  // What the tenant's sessions are kept under; another one once its namespace was deleted.
  std::string ScopeOf(const Tenant& tenant) const;
  // Null when it is not known, or of a scope that was deleted.
  EntryPtr Known(const Tenant& tenant, const std::string& id);
  void OnEnd(const EntryPtr& entry);
  // What this router knows of a session, or null when something newer was parked; and the newest card of the store.
  void FindLatest(const Tenant& tenant, const std::string& id, OnLatest done);
  // Reads a session's body.
  void GetSession(const Tenant& tenant, const SessionInfo& card, Done<Session> done);
  void ReadNext();
  std::optional<ApiError> CheckUnfinished(const std::string& finish_reason, const std::string& fingerprint) const;
  void ParkLatest(const Tenant& tenant, const std::string& id, ParkTerms terms, uint32_t n_tries,
                  Done<SessionInfo> done);
  struct Deletion;
  void DeleteVersions(const std::shared_ptr<Deletion>& deletion);
  void SayDeleted(const std::shared_ptr<Deletion>& deletion, const SessionStore::Heads& versions, uint32_t n_missed);

  const Options options_;
  const ServedModel& model_;
  Clock& clock_;
  Dispatcher& dispatcher_;
  SessionStore* const store_;
  const Namespaces* const namespaces_;
  ByteBudget budget_;
  std::deque<std::function<void()>> reads_waiting_;
  size_t n_reading_ = 0;
  absl::Time idle_check_at_ = absl::InfinitePast();
  const std::unique_ptr<SessionTable> table_;
  const std::unique_ptr<VersionClock> versions_;
  // Null without a store.
  const std::unique_ptr<SessionDrops> drops_;
  const std::unique_ptr<SessionParks> parks_;
};

}  // namespace longshelf::router
