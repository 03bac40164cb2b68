#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/comm/run_dir.h"

namespace longshelf::testing {

// A running generation, seen from outside.
struct GenerationView {
  uint64_t generation = 0;
  std::filesystem::path run_dir;
  std::vector<engine::RankProcess> ranks;
};

// A longshelf-worker, or a longshelf-host, of a test with its own work and shared-memory directories.
class SupervisedWorker {
 public:
  // `dir` holds the work directory, the shared-memory directory and the log; a second worker may use it again.
  SupervisedWorker(const std::filesystem::path& dir, const std::string& shard_binary,
                   const std::vector<std::string>& flags);
  // `command`: the program and its flags, behind whatever runs it somewhere else.
  SupervisedWorker(const std::filesystem::path& dir, std::vector<std::string> command);
  ~SupervisedWorker();
  SupervisedWorker(const SupervisedWorker&) = delete;
  SupervisedWorker& operator=(const SupervisedWorker&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int number) const;
  // The newest generation once it is `after` or later and serves with all its ranks.
  std::optional<GenerationView> WaitServing(uint64_t after, int n_shards, std::chrono::seconds limit) const;
  // Exit code, or 128 + signal; nullopt when it still runs at the limit.
  std::optional<int> WaitExit(std::chrono::seconds limit);
  std::string log() const;
  // What is left in the work and shared-memory directories, but for the root's lock.
  std::vector<std::string> Leftovers() const;

 private:
  const std::filesystem::path dir_;
  pid_t pid_ = -1;
};

// longshelf-worker with this shard binary.
std::vector<std::string> WorkerCommand(const std::string& shard_binary, const std::vector<std::string>& flags);

// Every process below `root`, itself included.
std::vector<engine::ProcessId> ProcessTree(pid_t root);
// How long until none of them lives; nullopt at the limit.
std::optional<std::chrono::milliseconds> TimeUntilGone(const std::vector<engine::ProcessId>& processes,
                                                       std::chrono::seconds limit);

}  // namespace longshelf::testing
