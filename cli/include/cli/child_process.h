#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::cli {

// A program that this one started: in its own process group, so that the terminal's Ctrl-C reaches only us; with
// signals reset, empty input, LONGSHELF_* variables removed, and output appended to a log file. It gets SIGTERM when
// the thread that started it ends, however that happens. Owner thread: the one that started it, the program's main
// thread.
class ChildProcess {
 public:
  // NOT_FOUND: no such program. UNAVAILABLE: cannot open the log or start.
  static absl::StatusOr<ChildProcess> Start(const std::string& program, const std::vector<std::string>& args,
                                            const std::string& log_path);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  // Kills it when it still runs.
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Readable once it has ended.
  int pidfd() const { return pidfd_; }
  // "exit code 3" or "signal 9" once it has ended; takes note of the end.
  const std::optional<std::string>& Ended();
  bool ended_well() const { return ended_well_; }  // exit code 0

  void Terminate();  // SIGTERM
  void Kill();       // SIGKILL to it and everything in its process group

 private:
  ChildProcess(pid_t pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}

  pid_t pid_;
  int pidfd_;
  std::optional<std::string> ended_;
  bool ended_well_ = false;
};

// The directory of the running program, "" when the kernel does not say.
std::string ProgramDirectory();

}  // namespace longshelf::cli
