#include "core_queue.h"

#include <algorithm>

namespace longshelf::simulation {

CoreQueue::CoreQueue(int n_at_once, int n_here, int n_ranks, double quantum_s, double switch_s)
    : n_at_once_(n_at_once), n_here_(n_here), quantum_s_(quantum_s), switch_s_(switch_s), n_free_(n_at_once) {
  left_.resize(static_cast<size_t>(n_ranks));
  last_.assign(static_cast<size_t>(n_at_once), -1);
}

void CoreQueue::Submit(int rank, double work_s) { ready_.push_back({rank, work_s}); }

std::optional<CoreQueue::Slice> CoreQueue::Start() {
  if (n_free_ == 0 || ready_.empty()) return std::nullopt;
  const Task task = ready_.front();
  ready_.pop_front();
  --n_free_;
  const bool is_last = task.left_s <= quantum_s_;
  const double run_s = is_last ? task.left_s : quantum_s_;
  left_[static_cast<size_t>(task.rank)] = task.left_s - run_s;
  const bool stays = std::find(last_.begin(), last_.end(), task.rank) != last_.end();
  if (!stays) {
    last_.erase(last_.begin());
    last_.push_back(task.rank);
  }
  const int n_running = n_at_once_ - n_free_;
  const int n_waiting = n_here_ - n_running - static_cast<int>(ready_.size());
  const double switch_s = stays ? 0 : switch_s_ * (1 + static_cast<double>(n_waiting) / n_at_once_);
  return Slice{task.rank, run_s + switch_s, is_last};
}

void CoreQueue::End(const Slice& slice) {
  ++n_free_;
  if (!slice.is_last) ready_.push_back({slice.rank, left_[static_cast<size_t>(slice.rank)]});
}

}  // namespace longshelf::simulation
