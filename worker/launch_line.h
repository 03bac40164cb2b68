#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longshelf::worker {

struct CommandLine {
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // "NAME=value"
};

// A group over several hosts; empty for one.
struct LaunchHosts {
  std::vector<std::string> names;  // as mpirun may know them; the first is this machine
  int shards_per_host = 1;
  std::string network;            // "10.0.0.0/24": all traffic of MPI goes through interfaces in it
  std::string launch_agent;       // what mpirun runs instead of ssh: a program and its arguments, without quotes
  std::string link_listen;        // of shard 0, see ShardConfig
  std::string store_link_listen;  // the same
};

// What one generation of a group is started with.
struct LaunchInput {
  int n_shards = 1;
  std::string mpirun;
  std::string shard_binary;
  uint64_t generation = 0;
  bool is_root = false;
  bool can_read_siblings = true;  // process_vm_readv is allowed here
  LaunchHosts hosts;
  int daemon_port = 0;  // mpirun's own
  // Of shards on several hosts, [begin, end).
  int shard_port_begin = 0;
  int shard_port_end = 0;
  std::vector<std::string> shard_flags;
  std::vector<std::string> environment;  // inherited
};

// The shard itself for one shard, mpirun for more. What an outer MPI job or scheduler left in the environment is taken
// out, so that a worker can itself be started by mpirun or Slurm.
CommandLine MakeLaunchLine(const LaunchInput& input);

// `environment` without what an outer MPI job or a scheduler's allocation would tell mpirun.
std::vector<std::string> WithoutOuterJob(const std::vector<std::string>& environment);

}  // namespace longshelf::worker
