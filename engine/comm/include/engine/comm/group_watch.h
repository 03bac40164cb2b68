#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace longshelf::engine {

// Exit code of a process that ended itself because its group is broken.
inline constexpr int kGroupBrokenExitCode = 70;

// A shard group dies as a unit. One thread waits on the pidfds of peers and parents and on the engine's progress, and
// ends this process with _exit(70) when one is gone or a step stands still: an MPI call that waits for a dead peer
// never returns. Watch, Break, Disarm and ExitAfter may be called from any thread; the step marks from the engine
// thread.
//
// Progress is counted in exchanges (the broadcast of a plan, each dispatch and combine, the gathering of results), not
// in steps: a step may have thousands of them and take as long as it likes, but the time from one to the next depends
// on one layer's work only.
class GroupWatch {
 public:
  struct Options {
    // A step that finishes no exchange for longer than this, and than 3 times the slowest exchange so far, is hung.
    absl::Duration progress_deadline = absl::Seconds(30);
    std::function<void(const std::string& reason)> last_words;  // on the watch thread, before _exit
    std::string error_file;  // where the reason is also written, for the supervisor's log; empty = nowhere
  };
  explicit GroupWatch(Options options);
  ~GroupWatch();
  GroupWatch(const GroupWatch&) = delete;
  GroupWatch& operator=(const GroupWatch&) = delete;

  // Ends this process when `pid` dies. UNAVAILABLE when it is already gone.
  absl::Status Watch(pid_t pid, const std::string& name);
  // Ends this process, unless disarmed: somebody else has found the group broken.
  void Break(const std::string& reason);
  // Peers may leave from now on; the progress deadline goes on.
  void Disarm();
  // The process ends with code 70 unless it has ended by itself in `deadline`.
  void ExitAfter(absl::Duration deadline, const std::string& reason);

  void BeginStep(uint64_t seq);
  // An exchange has finished. Outside of a step it means nothing.
  void MarkProgress();
  void EndStep();
  // Any thread.
  bool in_step() const { return progress_at_ns_.load(std::memory_order_acquire) != 0; }

 private:
  struct Watched {
    int pidfd;
    std::string name;
  };
  void Loop();
  void CheckProgress();
  void Wake();
  [[noreturn]] void Die(const std::string& reason);

  const Options options_;
  int wake_fd_ = -1;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> armed_{true};
  std::atomic<uint64_t> seq_{0};
  std::atomic<int64_t> progress_at_ns_{0};       // when the step began or last finished an exchange; 0 = idle
  std::atomic<int64_t> slowest_exchange_ns_{0};  // in any step so far, with the work before it
  std::atomic<int64_t> exit_at_ns_{0};           // 0 = never
  // Guards watched_ and exit_reason_, which callers fill while the thread polls.
  std::mutex mutex_;
  std::vector<Watched> watched_;
  std::string exit_reason_;
  std::thread thread_;
};

}  // namespace longshelf::engine
