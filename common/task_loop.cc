#include "common/task_loop.h"

#include <algorithm>
#include <utility>

namespace longshelf {

void TaskLoop::Post(std::function<void()> task) { inbox_.Post(std::move(task)); }

void TaskLoop::Abandon() {
  inbox_.Close();
  inbox_.Drain(std::chrono::milliseconds(0));
  timers_.clear();
}

void TaskLoop::At(absl::Time when, std::function<void()> task) { timers_.emplace(when, std::move(task)); }

bool TaskLoop::RunDue() {
  if (timers_.empty() || timers_.begin()->first > clock_.Now()) return false;
  const auto task = std::move(timers_.begin()->second);
  timers_.erase(timers_.begin());
  task();
  return true;
}

void TaskLoop::RunReady() {
  bool has_run = true;
  while (has_run) {
    has_run = false;
    for (const auto& task : inbox_.Drain(std::chrono::milliseconds(0))) {
      task();
      has_run = true;
    }
    while (RunDue()) has_run = true;
  }
}

void TaskLoop::RunUntilClosed() {
  while (true) {
    absl::Duration wait = absl::Minutes(1);  // bounds a wait that a task or Close() ends at once
    if (!timers_.empty()) wait = std::clamp(timers_.begin()->first - clock_.Now(), absl::ZeroDuration(), wait);
    const auto tasks = inbox_.Drain(absl::ToChronoMilliseconds(absl::Ceil(wait, absl::Milliseconds(1))));
    if (tasks.empty() && inbox_.closed()) return;
    for (const auto& task : tasks) task();
    if (!inbox_.closed()) {
      while (RunDue()) {
      }
    }
  }
}

}  // namespace longshelf
