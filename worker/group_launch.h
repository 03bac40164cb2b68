#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "group_dirs.h"
#include "hosts/network.h"
#include "launch_line.h"
#include "worker/supervisor.h"

namespace longshelf::worker {

// Where one generation of a group runs, found anew at every start: names may lead elsewhere and ports be taken.
struct Placement {
  std::vector<std::string> names;  // of the hosts; empty or one: this machine only
  GroupNetwork network;            // with several hosts
  int n_shards = 1;                // on all of them
  // Of --mpi-ports: a quarter for mpirun and its daemons, the last one for the links between hosts, the one before it
  // for those between stores, the rest for shards.
  int daemon_port_begin = 0;
  int daemon_port_end = 0;
  int daemon_port = 0;  // the one that mpirun takes: free now
  int link_port = 0;
  int store_link_port = 0;
};

// NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE: what of --hosts, --mpi-network or --mpi-ports does not hold here.
absl::StatusOr<Placement> FindPlacement(const SupervisorConfig& config);

// The command that starts a generation in `dirs`. For several hosts it also leaves there what longshelf-host must know.
absl::StatusOr<CommandLine> PrepareLaunch(const SupervisorConfig& config, const Placement& placement,
                                          const GenerationDirs& dirs, uint64_t generation, bool can_read_siblings);

}  // namespace longshelf::worker
