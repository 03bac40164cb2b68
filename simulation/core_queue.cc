#include "core_queue.h"

#include <algorithm>

namespace longshelf::simulation {

void CoreQueue::Submit(int rank, double work_s) {
  const bool keeps_core = has_ended_ && rank == last_;
  ready_.insert(keeps_core ? ready_.begin() : ready_.end(), {rank, work_s});
}

std::optional<CoreQueue::Slice> CoreQueue::Start() {
  if (is_running_) return std::nullopt;
  has_ended_ = false;
  if (ready_.empty()) {
    was_idle_ = true;
    return std::nullopt;
  }
  const Task task = ready_.front();
  ready_.pop_front();
  is_running_ = true;
  const bool is_last = task.left_s <= quantum_s_;
  const double run_s = is_last ? task.left_s : quantum_s_;
  left_s_ = task.left_s - run_s;
  const int n_waiting = n_here_ - 1 - static_cast<int>(ready_.size());
  const bool goes_on = n_here_ == 1 || (task.rank == last_ && !was_idle_);
  const double switch_s = goes_on ? 0 : switch_s_ * std::max(1.0, (1 + n_waiting) / 2.0);
  last_ = task.rank;
  was_idle_ = false;
  return Slice{task.rank, run_s + switch_s, is_last};
}

void CoreQueue::End(const Slice& slice) {
  is_running_ = false;
  has_ended_ = slice.is_last;
  if (!slice.is_last) ready_.push_back({slice.rank, left_s_});
}

}  // namespace longshelf::simulation
