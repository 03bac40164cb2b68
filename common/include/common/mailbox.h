#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace longshelf {

// Bounded multi-producer queue whose one consumer takes everything at once. The mutex guards the queue only: this is
// the one place where threads meet. Post on a full or closed mailbox fails; the caller turns that into an answer.
template <typename T>
class Mailbox {
 public:
  explicit Mailbox(size_t capacity) : capacity_(capacity) {}

  // False when full or closed; `message` is then untouched.
  bool Post(T&& message) {
    {
      std::lock_guard lock(mutex_);
      if (closed_ || queue_.size() >= capacity_) return false;
      queue_.push_back(std::move(message));
    }
    arrived_.notify_one();
    return true;
  }

  // Waits up to `wait` for a first message, then takes all. Empty on timeout or when closed and drained.
  std::vector<T> Drain(std::chrono::milliseconds wait) {
    std::unique_lock lock(mutex_);
    if (wait.count() > 0) {
      arrived_.wait_for(lock, wait, [this] { return closed_ || !queue_.empty(); });
    }
    std::vector<T> out(std::make_move_iterator(queue_.begin()), std::make_move_iterator(queue_.end()));
    queue_.clear();
    return out;
  }

  // No message enters any more; what is queued can still be drained.
  void Close() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    arrived_.notify_all();
  }

  bool closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return queue_.size();
  }

 private:
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<T> queue_;
  bool closed_ = false;
};

}  // namespace longshelf
