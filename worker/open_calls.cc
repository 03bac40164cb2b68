#include "open_calls.h"

#include <vector>

namespace longshelf::worker {

absl::Status OpenCalls::Add(const std::shared_ptr<OpenCall>& call) {
  std::lock_guard lock(mutex_);
  calls_[call.get()] = call;
  return broken_;
}

void OpenCalls::Remove(const OpenCall* call) {
  std::lock_guard lock(mutex_);
  calls_.erase(call);
  if (calls_.empty()) all_gone_.notify_all();
}

bool OpenCalls::BreakOff(const absl::Status& why, absl::Duration limit) {
  std::vector<std::shared_ptr<OpenCall>> calls;
  {
    std::lock_guard lock(mutex_);
    if (broken_.ok()) broken_ = why;
    for (const auto& [key, weak] : calls_) {
      if (auto call = weak.lock()) calls.push_back(std::move(call));
    }
  }
  for (const auto& call : calls) call->BreakOff(why);
  calls.clear();
  std::unique_lock lock(mutex_);
  return all_gone_.wait_for(lock, absl::ToChronoMilliseconds(limit), [this] { return calls_.empty(); });
}

}  // namespace longshelf::worker
