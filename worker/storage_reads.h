#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>

#include "common/metrics.h"

namespace longshelf::worker {

// Counts the bytes that the processes of a group had read from storage: with mapped weights, those that were not in
// memory when they were needed, ahead of use or on demand. It is the kernel's count of what it read on a process's
// behalf (read_bytes of /proc/PID/io): neither major faults, each of which may bring many pages, nor read(2) see that.
// Owned by the thread that serves metrics.
class StorageReads {
 public:
  // run_dir: where the processes of the group are listed; empty: only this one.
  StorageReads(Metrics& metrics, std::filesystem::path run_dir);
  // Asks the kernel. A process that cannot be asked any more keeps what it had.
  void Update();

 private:
  void Count(pid_t pid);

  prometheus::Counter& total_;
  const std::filesystem::path run_dir_;
  std::map<pid_t, uint64_t> seen_;
};

}  // namespace longshelf::worker
