#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::worker {

// How the first host of a group reaches the others.
enum class HostLauncher { kAgent, kSsh, kSrun };

// What longshelf-worker leaves in its run directory for the program that mpirun runs in place of ssh: everything that
// program must know, because its command line is mpirun's.
struct LaunchRequest {
  HostLauncher launcher = HostLauncher::kAgent;
  uint64_t generation = 0;
  std::vector<std::string> hosts;  // as in the launch line
  std::vector<std::string> names;  // of the same, as the operator gave them
  int shards_per_host = 1;
  std::string run_dir;                    // the leader's; where words of remote shards are left
  std::string program;                    // longshelf-host on the others, for ssh and srun
  int port = 0;                           // of the agents
  std::string token_file;                 // of the agents; empty: none
  std::string tls_cert, tls_key, tls_ca;  // to call them with; empty: without TLS
  int daemon_port_begin = 0;              // for Open MPI's daemon on the other hosts, [begin, end)
  int daemon_port_end = 0;
  int64_t wait_seconds = 0;              // for an agent that is not there yet
  int64_t silence_ms = 0;                // a host that says nothing for longer is gone
  std::string slurm_job;                 // for srun
  std::vector<std::string> environment;  // of the shards, see host.proto
};

// JSON, private to this user.
absl::Status WriteLaunchRequest(const std::filesystem::path& path, const LaunchRequest& request);
absl::StatusOr<LaunchRequest> ReadLaunchRequest(const std::filesystem::path& path);

}  // namespace longshelf::worker
