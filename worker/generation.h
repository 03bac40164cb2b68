#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/comm/run_dir.h"
#include "group_dirs.h"
#include "launch_line.h"
#include "process_tree.h"

namespace longshelf::worker {

// One start of a group, as far as it is on this host: its directories and every process that was started for it.
// One thread, which must live as long as the program (processes die with it).
class Generation {
 public:
  // Makes the directories and starts `line(dirs)`, whose environment it completes with what a shard must know of its
  // host. RESOURCE_EXHAUSTED, NOT_FOUND, PERMISSION_DENIED: not possible, and nothing is left.
  static absl::StatusOr<std::unique_ptr<Generation>> Start(
      GroupDirs& dirs, uint64_t number, int n_shards,
      const std::function<absl::StatusOr<CommandLine>(const GenerationDirs&)>& line);
  // Kills what is left and removes the directories.
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  uint64_t number() const { return number_; }
  pid_t session() const { return session_; }
  const GenerationDirs& dirs() const { return dirs_; }
  // Shards of this host that have said who they are, by rank.
  const std::map<int, engine::ProcessId>& ranks() const { return ranks_; }
  bool is_ready() const { return engine::IsReady(dirs_.run); }

  // To poll, together with whatever else the caller waits for.
  void AppendFds(std::vector<pollfd>& fds) const;
  // After poll. True when the run directory has news.
  bool Look(const std::vector<pollfd>& fds);
  // Who has ended, "shard 2" or "mpirun"; nullopt: nobody. `shards_too` false: only the process that was started.
  std::optional<std::string> FindEnded(const std::vector<pollfd>& fds, bool shards_too, const std::string& first) const;

  // Waits until every shard of this host has ended by itself, which those of a broken group do once they have told
  // their callers why; `limit` at most.
  void AwaitShards(absl::Duration limit);
  // Kills everything and returns what the shards had to say.
  std::vector<engine::RankError> TearDown();

 private:
  Generation(GroupDirs& all_dirs, uint64_t number) : all_dirs_(all_dirs), number_(number) {}
  void ReadRanks();

  GroupDirs& all_dirs_;
  const uint64_t number_;
  GenerationDirs dirs_;
  pid_t session_ = 0;
  OwnedFd pidfd_;    // of the session leader: mpirun, its daemon, or the only shard
  OwnedFd inotify_;  // of the run directory
  std::map<int, engine::ProcessId> ranks_;
  std::map<int, OwnedFd> rank_pidfds_;
};

}  // namespace longshelf::worker
