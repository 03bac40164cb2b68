#include "session_keeper.h"

#include <algorithm>
#include <utility>

#include "kvstore/namespace_id.h"

namespace longshelf::worker {

void SessionKeeper::SetTimer() {
  core_.loop->At(core_.clock.Now() + core_.options.verify_interval, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->OnTimer();
  });
}

void SessionKeeper::OnTimer() {
  for (Session& session : sessions_) session.is_due = true;
  CheckNext();
  SetTimer();
}

void SessionKeeper::Note(UploadOrder order, const std::optional<engine::PrefixKey>& continues) {
  Forget(order.at.key);
  if (continues.has_value()) Forget(*continues);
  n_keys_ += order.blocks.size();
  sessions_.push_back({std::move(order), true});
  Trim();
  CheckNext();
}

void SessionKeeper::Forget(const engine::PrefixKey& key) {
  const auto gone = std::find_if(sessions_.begin(), sessions_.end(),
                                 [&](const Session& session) { return session.order.at.key == key; });
  if (gone == sessions_.end()) return;
  n_keys_ -= gone->order.blocks.size();
  sessions_.erase(gone);
}

void SessionKeeper::Trim() {
  while (sessions_.size() > 1 && (sessions_.size() > kSessionsMax || n_keys_ > kKeysMax)) {
    n_keys_ -= sessions_.front().order.blocks.size();
    sessions_.pop_front();
  }
}

void SessionKeeper::ForgetDeleted() {
  std::erase_if(sessions_, [this](const Session& session) {
    if (!core_.deleted.Has(session.order.namespace_id)) return false;
    n_keys_ -= session.order.blocks.size();
    return true;
  });
}

void SessionKeeper::CheckNext() {
  if (running_ != nullptr) return;
  ForgetDeleted();
  // The most recent first: it is the likeliest to be asked for.
  const auto due = std::find_if(sessions_.rbegin(), sessions_.rend(), [](const Session& s) { return s.is_due; });
  if (due == sessions_.rend() || !core_.breaker_out.MayCall(core_.clock.Now())) return;
  due->is_due = false;
  UploadOrder order = due->order;
  order.timeout = absl::Minutes(5);
  running_ =
      std::make_shared<Upload>(core_, std::move(order),
                               [weak = weak_from_this(), key = due->order.at.key,
                                namespace_id = due->order.namespace_id](const absl::StatusOr<UploadResult>& result) {
                                 if (const auto self = weak.lock()) self->OnChecked(key, namespace_id, result);
                               });
  running_->Start();
}

void SessionKeeper::OnChecked(const engine::PrefixKey& key, const std::string& namespace_id,
                              const absl::StatusOr<UploadResult>& result) {
  running_.reset();
  if (result.ok()) {
    core_.metrics.Healed(result->n_blocks_sent);
  } else if (kvstore::IsNamespaceDeleted(result.status())) {
    core_.deleted.Add(namespace_id);
  } else if (absl::IsNotFound(result.status())) {
    // Not held here any more either: nothing can be done for it.
    Forget(key);
  }
  CheckNext();
}

void SessionKeeper::Abandon(const absl::Status& status) {
  sessions_.clear();
  n_keys_ = 0;
  if (const auto running = running_) running->Abandon(status);
}

}  // namespace longshelf::worker
