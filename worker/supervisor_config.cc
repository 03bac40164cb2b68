#include <unistd.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "work_dir.h"
#include "worker/supervisor.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;

// Set for every generation, not by people.
const std::set<std::string>& OptionsOfTheGroup() {
  static const std::set<std::string> names = {"shards",      "run-dir",     "generation",       "supervisor-pid",
                                              "mpi-shm-dir", "link-listen", "store-link-listen"};
  return names;
}

std::string BesideThisProgram(const char* name) {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string(name) : (self.parent_path() / name).string();
}

}  // namespace

ParseOutcome ParseSupervisorConfig(int argc, const char* const* argv, SupervisorConfig* config) {
  config->shard_binary = BesideThisProgram("longshelf-shard");
  config->host_binary = BesideThisProgram("longshelf-host");
  config->work_dir = DefaultWorkDir();

  ConfigSpec spec("longshelf-worker", "Keeps one group of engine shards running and restarts it when it breaks.");
  std::set<std::string> own;
  const auto name = [&own](const char* option) { return *own.insert(option).first; };
  spec.Group("Supervisor");
  spec.Add(&config->admin.listen, name("supervisor-listen"), "address and port of the supervisor's own probes");
  spec.Add(&config->hosts, name("hosts"),
           "machines of the group, this one first: a,b,c, @FILE, slurm, pmix or lws; none: this machine only");
  spec.Add(&config->shards_per_host, name("shards-per-host"), "shards on each of them", {1, 64});
  spec.AddChoice(&config->launcher, name("launcher"),
                 "how the others are reached: agent (longshelf-host runs there), ssh, or srun",
                 {"agent", "ssh", "srun"});
  spec.Add(&config->host_port, name("host-port"), "where longshelf-host listens on the others", {1, UINT16_MAX});
  spec.Add(&config->mpi_network, name("mpi-network"),
           "network between the hosts, like 10.0.0.0/24; the one that leads to the second host when not given");
  spec.Add(&config->mpi_ports, name("mpi-ports"), "TCP ports of MPI, the same on every host of the group");
  spec.Add(&config->host_binary, name("host-binary"), "longshelf-host, here and on the others");
  spec.Add(&config->mpirun, name("mpirun"), "launcher for more than one shard");
  spec.Add(&config->shard_binary, name("shard-binary"), "the program of each shard");
  spec.Add(&config->work_dir, name("work-dir"), "private directory for run files; removed contents after each group");
  spec.Add(&config->shm_root, name("shm-dir"), "where MPI's shared segments go");
  spec.Add(&config->start_timeout, name("start-timeout"), "a group that does not serve by then is started again",
           {absl::Seconds(1), absl::Hours(24)});
  spec.Add(&config->restart_delay_min, name("restart-delay-min"), "wait before the first restart",
           {absl::Milliseconds(10), absl::Hours(1)});
  spec.Add(&config->restart_delay_max, name("restart-delay-max"), "the wait doubles up to this",
           {absl::Milliseconds(10), absl::Hours(1)});
  spec.Add(&config->failed_starts_max, name("failed-starts-max"), "starts in a row without serving before giving up",
           {1, 1000});
  AddShardOptions(spec, &config->shard);
  spec.Check([config]() -> absl::Status {
    if (config->restart_delay_min <= config->restart_delay_max) return absl::OkStatus();
    return absl::InvalidArgumentError("restart-delay-min is above restart-delay-max");
  });
  spec.Check([config]() -> absl::Status {
    if (config->hosts.empty() || config->shard.n_shards == 1) return absl::OkStatus();
    return absl::InvalidArgumentError("shards counts those of one machine; with hosts give shards-per-host");
  });
  ParseOutcome outcome = spec.Parse(argc, argv);
  config->admin.token = config->shard.admin.token;
  config->admin.tls_mode = config->shard.admin.tls_mode;
  config->admin.insecure_internal = config->shard.insecure_internal;
  config->shard_flags = spec.FlagsToPassOn(
      [&own](const std::string& option) { return !own.contains(option) && !OptionsOfTheGroup().contains(option); });
  return outcome;
}

}  // namespace longshelf::worker
