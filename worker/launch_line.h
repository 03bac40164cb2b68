#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longshelf::worker {

struct CommandLine {
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // "NAME=value"
};

// What one generation of a group is started with.
struct LaunchInput {
  int n_shards = 1;
  std::string mpirun;
  std::string shard_binary;
  std::string run_dir;  // private to the generation, as are the next two
  std::string shm_dir;  // MPI's shared segments
  std::string tmp_dir;  // mpirun's session files
  uint64_t generation = 0;
  int64_t supervisor_pid = 0;
  bool is_root = false;
  bool can_read_siblings = true;  // process_vm_readv is allowed here
  std::vector<std::string> shard_flags;
  std::vector<std::string> environment;  // inherited
};

// The shard itself for one shard, mpirun for more. What an outer MPI job left in the environment is taken out, so that
// a worker can itself be started by mpirun or Slurm.
CommandLine MakeLaunchLine(const LaunchInput& input);

}  // namespace longshelf::worker
