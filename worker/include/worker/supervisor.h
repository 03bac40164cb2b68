#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/shutdown.h"
#include "net/admin_server.h"
#include "process/service_manager.h"
#include "worker/shard_config.h"

namespace longshelf::worker {

struct SupervisorConfig {
  ShardConfig shard;                     // checked here, passed on as given
  std::vector<std::string> shard_flags;  // filled by ParseSupervisorConfig
  AdminOptions admin;
  // A group over several machines; see worker/hosts/host_list.h. Empty: this machine only.
  std::vector<std::string> hosts;
  int shards_per_host = 1;
  std::string launcher = "agent";  // how other hosts are reached: "agent", "ssh" or "srun"
  int host_port = 7310;            // of the agents
  std::string mpi_network;         // empty = the network that leads to the second host
  std::string mpi_ports = "7320-7399";
  std::string mpirun = "mpirun";
  std::string shard_binary;  // empty = longshelf-shard beside this program
  std::string host_binary;   // empty = longshelf-host beside this program
  std::string work_dir;      // empty = longshelf-UID in the temporary directory
  std::string shm_root = "/dev/shm";
  absl::Duration start_timeout = absl::Minutes(30);
  absl::Duration restart_delay_min = absl::Milliseconds(200);
  absl::Duration restart_delay_max = absl::Seconds(30);
  int failed_starts_max = 5;
  // Told what readiness() says, and that this worker is alive: while its supervisor turns and, once the group serves,
  // the group's engine does. May be null.
  ServiceManager* service_manager = nullptr;
};

// longshelf-worker's command line: every option of longshelf-shard and a few of its own.
ParseOutcome ParseSupervisorConfig(int argc, const char* const* argv, SupervisorConfig* config);

// Keeps one shard group alive: starts it, watches every process of it, ends the whole group when any of them ends,
// cleans up and starts the next generation. No MPI and no gRPC here, so nothing of the group's can take it along. One
// thread, the program's main thread (children die with it), except readiness().
class Supervisor {
 public:
  // Cleans up after supervisors that were killed. PERMISSION_DENIED: the work directory is not ours.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(const SupervisorConfig& config, Clock& clock,
                                                            ShutdownSignals& signals, Metrics& metrics);
  ~Supervisor();

  // Until a signal has drained the group (0), or it had to be killed instead, or cannot be started at all (1).
  int Run();

  // Whether the group serves, and if not, what the last one ended with. Any thread.
  Readiness readiness() const;
  // Whether it does its work; see liveness.h. Any thread.
  bool live() const;

 private:
  struct Impl;
  explicit Supervisor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::worker
