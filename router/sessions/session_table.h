#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/time.h"
#include "router/completion.h"
#include "router/session.h"

namespace longshelf::router {

// One answer. Kept by the table and by the request that makes it.
struct SessionEntry final : AnswerRecorder, std::enable_shared_from_this<SessionEntry> {
  using OnEnded = std::function<void(const std::shared_ptr<SessionEntry>&)>;
  SessionEntry(Tenant the_tenant, OnEnded the_on_ended)
      : tenant(std::move(the_tenant)), on_ended(std::move(the_on_ended)) {}

  void OnToken(uint32_t token) override { session.output.push_back(token); }
  void OnEnd(std::string_view finish_reason, std::optional<size_t> on_worker) override;
  SessionInfo Info() const;
  // One goes on with the other.
  bool IsSameAnswer(const SessionEntry& other) const { return session.request_id == other.session.request_id; }

  const Tenant tenant;
  const OnEnded on_ended;
  std::string scope;  // what the tenant's sessions were kept under when it began
  Session session;
  std::string namespace_salt;
  std::optional<ParkTerms> at_end;
  std::optional<ParkedKv> kv;                   // as it was parked last
  std::optional<SessionInfo> parked;            // the card, when this router did it
  bool is_deleted = false;                      // parks that are under way come to nothing
  std::deque<std::function<void()>> manifests;  // to be stored one after another; the first one is being stored
  bool is_placing = false;                      // what it stands on is asked for: its parks wait
  Completion* running = nullptr;
  std::optional<size_t> worker;  // that has its state
};

// The answers that a router knows of: those that are being made, and, bounded, those that were. What one tenant leaves
// behind pushes out its own first. Owner: the router loop.
class SessionTable {
 public:
  using EntryPtr = std::shared_ptr<SessionEntry>;

  SessionTable(uint64_t memory_bytes, size_t sessions_max) : memory_bytes_(memory_bytes), sessions_max_(sessions_max) {}

  EntryPtr Find(const Tenant& tenant, const std::string& id) const;
  // Takes the place of the session's last answer.
  void Add(const EntryPtr& entry);
  bool Has(const SessionEntry& entry) const;
  // It ended: from now on it may be forgotten. REQUIRES: Has(entry).
  void SetIdle(const SessionEntry& entry, absl::Time now);
  // Those that have been idle since before `time`.
  void ForgetIdleBefore(absl::Time time);
  void Forget(const SessionEntry& entry);

 private:
  struct Idle {
    std::string id;
    uint64_t n_bytes = 0;
    absl::Time since;
  };
  struct TenantEntries {
    std::map<std::string, EntryPtr> all;
    std::list<Idle> idle;  // the longest unused first
    uint64_t n_bytes = 0;  // of these
  };
  void ForgetOldestOf(TenantEntries& entries);
  void Erase(const std::string& tenant, const std::string& id);

  const uint64_t memory_bytes_;
  const size_t sessions_max_;
  std::map<std::string, TenantEntries> tenants_;
  uint64_t n_bytes_ = 0;  // of idle ones
  size_t n_idle_ = 0;
};

}  // namespace longshelf::router
