#pragma once

#include <sys/types.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "launch_line.h"

namespace longshelf::worker {

// A descriptor that closes itself.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.Release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept;
  ~OwnedFd();
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release();

 private:
  int fd_ = -1;
};

// A process as the leader of its own session, which dies (SIGKILL) with the calling thread: call it from a thread that
// lives as long as the process. Signals are reset, standard input is empty. NOT_FOUND: cannot be executed.
absl::StatusOr<pid_t> SpawnSession(const CommandLine& line);

// Readable when the process has ended; invalid when it does not exist.
OwnedFd OpenPidfd(pid_t pid);

// Waits until all of these processes have ended, or the time is up: whether all have. Below 0: has ended.
bool WaitForEnds(const std::vector<int>& pidfds, absl::Time deadline, const Clock& clock);

// Living processes of a session, whatever their parent or process group.
std::vector<pid_t> SessionMembers(pid_t session);

// Kills everything in the session and waits until it is gone and reaped. DEADLINE_EXCEEDED: something is still there
// (a process in an uninterruptible wait).
absl::Status KillSession(pid_t session, absl::Duration timeout);

// Kills one process and waits until it is gone.
void KillProcess(pid_t pid, absl::Duration timeout);

// Takes note of every child that has ended. Only for a process that does not wait for children elsewhere.
void ReapChildren();

// Orphans below this process become its children instead of init's, so that it can reap them.
void BecomeSubreaper();

// Whether one of our processes may read another's memory (process_vm_readv): containers often forbid it, and MPI then
// must not try. Asks a short-lived child.
bool CanReadSiblings();

}  // namespace longshelf::worker
