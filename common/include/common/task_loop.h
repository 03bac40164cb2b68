#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <map>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mailbox.h"

namespace longshelf {

// Runs tasks one after another: what lives on a loop needs no locks. Anybody posts; somebody turns it: a thread of
// its own, or a test with a clock of its own.
class TaskLoop {
 public:
  explicit TaskLoop(const Clock& clock) : clock_(clock) {}

  // Any thread. Dropped when the loop is closed.
  void Post(std::function<void()> task);
  // Tasks only: runs `task` at `when`, or soon after.
  void At(absl::Time when, std::function<void()> task);

  // Runs what is posted and what is due, also what that posts.
  void RunReady();
  // Turns until the loop is closed and empty.
  void RunUntilClosed();
  // Any thread. What was posted before still runs; timers do not.
  void Close() { inbox_.Close(); }
  // Closes it and drops what is left, which may hold the loop itself. REQUIRES: nobody turns it.
  void Abandon();

  absl::Time Now() const { return clock_.Now(); }

 private:
  bool RunDue();  // false: nothing was due

  const Clock& clock_;
  Mailbox<std::function<void()>> inbox_{std::numeric_limits<size_t>::max()};
  std::multimap<absl::Time, std::function<void()>> timers_;
};

}  // namespace longshelf
