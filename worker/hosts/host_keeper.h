#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/shutdown.h"
#include "engine/comm/run_dir.h"

namespace longshelf::worker {

class GroupDirs;

// One start of this host's part of a group.
struct HostRun {
  uint64_t generation = 0;
  int n_shards = 1;
  std::vector<std::string> daemon_args;
  int daemon_port_begin = 0;  // where the daemon may listen, [begin, end)
  int daemon_port_end = 0;
  std::vector<std::string> environment;
  // On the keeper's thread, once, whatever becomes of the run.
  std::function<void(const std::string& reason, const std::vector<engine::RankError>& errors)> ended;
};

struct HostKeeperOptions {
  std::string work_dir;
  std::string shm_root = "/dev/shm";
  std::string daemon = "orted";
  std::vector<std::string> environment;  // of this host; takes precedence over a run's
  // How long a run may go on after a signal: until the first host, which may drain, ends it.
  absl::Duration drain_timeout = absl::ZeroDuration();
};

// Keeps this host's part of a group: starts Open MPI's daemon when asked, ends all of it when any process of it ends or
// when asked, and cleans up. One run at a time. The supervisor's counterpart on every host but the first.
class HostKeeper {
 public:
  // Cleans up after keepers that were killed. PERMISSION_DENIED: the work directory is not ours.
  static absl::StatusOr<std::unique_ptr<HostKeeper>> Create(HostKeeperOptions options);
  ~HostKeeper();

  // Any thread. Ends the run before it, if there is one. Returns a ticket for Cancel.
  uint64_t Submit(HostRun run);
  // Any thread: ends that run if it still goes on.
  void Cancel(uint64_t ticket, const std::string& reason);
  // Any thread: Loop() ends what runs and returns.
  void Stop();

  // On the program's main thread, as processes die with the thread that started them: until Stop, a second signal, or a
  // first one and the end of what runs.
  void Loop(ShutdownSignals& signals);

  bool runs() const { return running_.load(); }

 private:
  struct Order {
    uint64_t ticket = 0;
    std::optional<HostRun> run;  // none: cancel
    std::string reason;
  };
  struct Current;
  HostKeeper(HostKeeperOptions options, std::unique_ptr<GroupDirs> dirs, int wake_fd);
  void Post(Order order);
  void TakeOrders();
  // False: leave now.
  bool OnSignal();
  void Begin(Order order);
  void End(const std::string& reason);

  const HostKeeperOptions options_;
  std::unique_ptr<GroupDirs> dirs_;
  const int wake_fd_;
  const bool can_read_siblings_;  // process_vm_readv is allowed here
  std::atomic<bool> running_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> n_tickets_{0};
  // Guards orders_, which callers of any thread append to.
  std::mutex mutex_;
  std::vector<Order> orders_;
  // The loop's.
  std::unique_ptr<Current> current_;
  absl::Time leave_at_ = absl::InfiniteFuture();
  uint64_t n_started_ = 0;  // names the directories: a leader that starts again begins at 1
};

}  // namespace longshelf::worker
