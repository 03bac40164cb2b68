#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

namespace longshelf::kvstore {

// A mutex that is handed to whoever waits longest. Whoever works in pieces under a std::mutex takes it back before a
// waiter has woken up, again and again; here a piece is the longest that anybody waits per waiter before him.
// For std::lock_guard and std::unique_lock.
class FifoMutex {
 public:
  void lock() {
    std::unique_lock guard(guard_);
    if (!held_) {
      held_ = true;
      return;
    }
    Waiter self;
    waiters_.push_back(&self);
    self.turn.wait(guard, [&self] { return self.granted; });
  }

  void unlock() {
    std::lock_guard guard(guard_);
    if (waiters_.empty()) {
      held_ = false;
      return;
    }
    Waiter* const next = waiters_.front();
    waiters_.pop_front();
    next->granted = true;     // held_ stays: it is his already
    next->turn.notify_one();  // before the guard is let go: the waiter lives on its thread's stack
  }

 private:
  struct Waiter {
    std::condition_variable turn;
    bool granted = false;
  };

  // Guards the two below, for a few instructions at a time.
  std::mutex guard_;
  bool held_ = false;
  std::deque<Waiter*> waiters_;
};

}  // namespace longshelf::kvstore
