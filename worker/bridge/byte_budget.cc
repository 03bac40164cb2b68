#include "byte_budget.h"

#include <deque>
#include <mutex>
#include <vector>

#include "common/check.h"

namespace longshelf::worker {

// The mutex guards counts and queues that the engine thread, the loop and whoever drops a lease change.
struct ByteBudget::State : std::enable_shared_from_this<State> {
  struct Waiting {
    uint64_t n_bytes;
    std::function<void(std::shared_ptr<Lease>)> taken;
  };
  State(uint64_t n, std::shared_ptr<TaskLoop> task_loop) : n_total(n), loop(std::move(task_loop)) {}

  uint64_t Max(Way way) const { return way == Way::kIn ? n_total : n_total / 2; }
  bool Fits(Way way, uint64_t n_bytes) const {
    if (used[0] + used[1] + n_bytes > n_total) return false;
    return way == Way::kIn || used[1] + n_bytes <= Max(way);
  }
  std::shared_ptr<Lease> TakeLocked(Way way, uint64_t n_bytes) {
    used[static_cast<size_t>(way)] += n_bytes;
    return std::make_shared<Lease>(shared_from_this(), way, n_bytes);
  }
  // Who gets what came free; to be posted without the mutex.
  std::vector<std::function<void()>> ServeLocked() {
    std::vector<std::function<void()>> tasks;
    for (const Way way : {Way::kIn, Way::kOut}) {
      auto& queue = waiting[static_cast<size_t>(way)];
      while (!queue.empty() && Fits(way, queue.front().n_bytes)) {
        tasks.push_back(
            [taken = std::move(queue.front().taken), lease = TakeLocked(way, queue.front().n_bytes)] { taken(lease); });
        queue.pop_front();
      }
      if (!queue.empty()) break;  // what comes free is for the one in front
    }
    return tasks;
  }
  void Post(std::vector<std::function<void()>> tasks) {
    for (auto& task : tasks) loop->Post(std::move(task));
  }

  const uint64_t n_total;
  const std::shared_ptr<TaskLoop> loop;
  mutable std::mutex mutex;
  uint64_t used[2] = {0, 0};
  std::deque<Waiting> waiting[2];
};

ByteBudget::Lease& ByteBudget::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  GiveBack();
  state_ = std::move(other.state_);
  way_ = other.way_;
  n_bytes_ = std::exchange(other.n_bytes_, 0);
  return *this;
}

void ByteBudget::Lease::GiveBack() {
  const std::shared_ptr<State> state = std::exchange(state_, nullptr);
  if (state == nullptr) return;
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(state->mutex);
    state->used[static_cast<size_t>(way_)] -= n_bytes_;
    tasks = state->ServeLocked();
  }
  state->Post(std::move(tasks));
}

ByteBudget::ByteBudget(uint64_t n_bytes, std::shared_ptr<TaskLoop> loop)
    : state_(std::make_shared<State>(n_bytes, std::move(loop))) {}

uint64_t ByteBudget::n_max(Way way) const { return state_->Max(way); }

uint64_t ByteBudget::n_used() const {
  const std::lock_guard lock(state_->mutex);
  return state_->used[0] + state_->used[1];
}

std::optional<ByteBudget::Lease> ByteBudget::TryTake(Way way, uint64_t n_bytes) {
  const std::lock_guard lock(state_->mutex);
  const bool is_first = state_->waiting[0].empty() && (way == Way::kIn || state_->waiting[1].empty());
  if (!is_first || !state_->Fits(way, n_bytes)) return std::nullopt;
  return std::move(*state_->TakeLocked(way, n_bytes));
}

void ByteBudget::Take(Way way, uint64_t n_bytes, std::function<void(std::shared_ptr<Lease>)> taken) {
  LONGSHELF_CHECK(n_bytes <= n_max(way));
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(state_->mutex);
    state_->waiting[static_cast<size_t>(way)].push_back({n_bytes, std::move(taken)});
    tasks = state_->ServeLocked();
  }
  state_->Post(std::move(tasks));
}

}  // namespace longshelf::worker
