#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bridge_core.h"
#include "upload.h"

namespace longshelf::worker {

// Sees to it that the store holds the whole chain of every recent session, whatever was dropped on the way, and also
// when the store has restarted empty: looks a session's chain up when a turn has left a checkpoint, and every now and
// then, and offers what is missing again, parents first, one session at a time; but not what the store says is deleted.
// Lives on the bridge's loop.
class SessionKeeper : public std::enable_shared_from_this<SessionKeeper> {
 public:
  static constexpr size_t kSessionsMax = 256;
  static constexpr size_t kKeysMax = size_t{1} << 18;  // of all sessions: 8 MiB

  explicit SessionKeeper(BridgeCore& core) : core_(core) {}

  void Start() { SetTimer(); }
  // A session stands at `at`; takes the place of the entry that it goes on from, and of no other: many begin alike.
  void Note(UploadOrder session, const std::optional<engine::PrefixKey>& continues);
  void Abandon(const absl::Status& status);

 private:
  struct Session {
    UploadOrder order;
    bool is_due = false;
  };

  void SetTimer();
  void OnTimer();
  void CheckNext();
  void Forget(const engine::PrefixKey& key);
  void OnChecked(const engine::PrefixKey& key, const std::string& namespace_id,
                 const absl::StatusOr<UploadResult>& result);
  void ForgetDeleted();
  void Trim();

  BridgeCore& core_;
  std::list<Session> sessions_;  // least recent first
  size_t n_keys_ = 0;
  std::shared_ptr<Upload> running_;
};

}  // namespace longshelf::worker
