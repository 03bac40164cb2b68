#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longshelf::engine {

// The files by which the processes of one group generation know each other. The directory is private (0700) and belongs
// to the supervisor, which makes it before the start and removes it after the end.
//
//   rank-K.pid    "PID START_TICKS\n": a process, told apart from a later one with the same number
//   rank-K.error  why rank K ended itself, for the supervisor's log
//   ready         rank 0 serves
//   doorbell      see doorbell.h
//   weights       where the shards' copy of the weights is, see weights_share.h; only with --weights huge
//
// longshelf-worker starts longshelf-shard (through mpirun when shards > 1) with
//   --shards R --run-dir DIR --generation N --supervisor-pid PID
// and everything it was given itself. Each process calls TieToParent() first; with R = 1 it then calls WriteRankPid(),
// with R > 1 MpiSession::Start() does. Rank 0 calls WriteReady() once it serves. SIGTERM goes to rank 0 only: it
// drains, shuts the group down and exits 0. Whoever gives up calls WriteRankError().

// A process named so that a recycled pid is not mistaken for it.
struct ProcessId {
  pid_t pid = 0;
  uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat
  bool operator==(const ProcessId&) const = default;
};

// nullopt when no such process exists (any more).
std::optional<ProcessId> FindProcess(pid_t pid);
bool IsAlive(const ProcessId& id);

absl::Status WriteRankPid(const std::filesystem::path& run_dir, int rank, pid_t pid);
void WriteRankError(const std::filesystem::path& run_dir, int rank, std::string_view reason);
absl::Status WriteReady(const std::filesystem::path& run_dir);
bool IsReady(const std::filesystem::path& run_dir);

struct RankProcess {
  int rank = 0;
  ProcessId id;
};
struct RankError {
  int rank = 0;
  std::string reason;
};
// What is readable; files that are not ours or half written are skipped.
std::vector<RankProcess> ReadRankPids(const std::filesystem::path& run_dir);
std::vector<RankError> ReadRankErrors(const std::filesystem::path& run_dir);

std::filesystem::path DoorbellPath(const std::filesystem::path& run_dir);
std::filesystem::path WeightsSharePath(const std::filesystem::path& run_dir);
std::filesystem::path RankErrorPath(const std::filesystem::path& run_dir, int rank);

// Makes this process end with SIGKILL when its parent does, and survive signals that launchers forward or terminals
// send (SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE). Call first in main().
void TieToParent();

}  // namespace longshelf::engine
