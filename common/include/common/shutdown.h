#pragma once

#include "absl/time/time.h"

namespace longshelf {

// SIGTERM and SIGINT as events instead of interruptions. Construct it first in main, before any thread: it blocks both
// signals for this thread and all started later, and ignores SIGPIPE. Children inherit the mask, so whoever starts
// processes resets it for them (POSIX_SPAWN_SETSIGMASK, or sigprocmask between fork and exec).
class ShutdownSignals {
 public:
  enum class Event { kSignal, kWake, kTimeout };

  ShutdownSignals();
  ~ShutdownSignals();
  ShutdownSignals(const ShutdownSignals&) = delete;
  ShutdownSignals& operator=(const ShutdownSignals&) = delete;

  // The next event; one signal is one event. For one waiting thread.
  Event Wait(absl::Duration timeout = absl::InfiniteDuration());
  // SIGTERM or SIGINT: the latest that Wait returned; 0 before.
  int last_signal() const { return last_signal_; }

  // Any thread: the next Wait returns kWake. For "drained" and for "this process cannot go on".
  void Wake();

  // Readable when a signal or a Wake is pending, for loops of their own (poll, asio).
  int fd() const { return epoll_fd_; }

 private:
  int signal_fd_;
  int wake_fd_;
  int epoll_fd_;
  int last_signal_ = 0;
};

}  // namespace longshelf
