#include "call_registry.h"

#include <utility>
#include <vector>

namespace longshelf::kvstore {

absl::Status CallRegistry::Add(std::shared_ptr<RunningCall> call) {
  std::lock_guard lock(mutex_);
  if (closed_) return absl::CancelledError("the client is going away");
  const RunningCall* const key = call.get();
  calls_.emplace(key, std::move(call));
  return absl::OkStatus();
}

void CallRegistry::Remove(const RunningCall& call) {
  std::shared_ptr<RunningCall> last;  // destroyed without the lock
  std::lock_guard lock(mutex_);
  const auto it = calls_.find(&call);
  if (it == calls_.end()) return;
  last = std::move(it->second);
  calls_.erase(it);
  removed_.notify_all();
}

void CallRegistry::Close() {
  std::vector<std::shared_ptr<RunningCall>> running;
  std::unique_lock lock(mutex_);
  closed_ = true;
  for (const auto& [key, call] : calls_) running.push_back(call);
  lock.unlock();
  for (const auto& call : running) call->Cancel();
  running.clear();
  lock.lock();
  removed_.wait(lock, [this] { return calls_.empty(); });
}

}  // namespace longshelf::kvstore
