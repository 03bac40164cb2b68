#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/session.h"
#include "router/session_store.h"
#include "session_objects.h"

namespace longshelf::router {

// Takes versions of sessions from the store, with what no other parked session has of their states: each is compared
// with all of the tenant's, page by page. A few at a time, the others wait. Owner: the router loop.
class SessionDrops {
 public:
  struct Order {
    std::string scope;               // what the tenant's sessions are kept under
    SessionStore::Heads versions;    // of one session
    std::vector<OwnObjects> states;  // what is to go beside those of the versions
    // The number of stores that did not answer. When the sessions there are cannot be read now, an error, and nothing
    // was dropped. Where one of them never can be, the states are left until their time.
    SessionStore::Done<uint32_t> done;
    bool is_waited_for = false;  // by a client
  };

  // The store must outlive this.
  SessionDrops(SessionStore& store, std::string tenant_secret, uint32_t vocab_size)
      : store_(store), tenant_secret_(std::move(tenant_secret)), vocab_size_(vocab_size) {}

  void Drop(Order order);
  // A state whose session was not stored in the end.
  void DropState(const std::string& scope, const SessionInfo& info, const Session& session);
  std::string SaltOf(const Session& session) const;
  size_t n_orders() const { return n_running_ + waiting_.size(); }

 private:
  struct Task {
    Order order;
    std::vector<SessionInfo> cards;  // of the versions: those with a state
    uint32_t n_walks = 0;            // over all sessions
  };
  using TaskPtr = std::shared_ptr<Task>;

  void Begin(const TaskPtr& task);
  void LoadStates(const TaskPtr& task);
  void Walk(const TaskPtr& task, const kvstore::BlockKey& after);
  void Compare(const TaskPtr& task, const SessionStore::HeadPage& page,
               const std::vector<absl::StatusOr<SessionInfo>>& cards);
  void DropOf(const TaskPtr& task);
  void End(const TaskPtr& task, const absl::StatusOr<uint32_t>& n_missed);

  SessionStore& store_;
  const std::string tenant_secret_;
  const uint32_t vocab_size_;
  std::deque<TaskPtr> waiting_;
  size_t n_running_ = 0;
};

}  // namespace longshelf::router
