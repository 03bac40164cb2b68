#include "group_launch.h"

#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config.h"
#include "common/status.h"
#include "hosts/host_list.h"
#include "hosts/launch_request.h"
#include "hosts/pmix_nodes.h"

namespace longshelf::worker {
namespace {

// Options that name files: hosts may have them in other places, so they go by environment, where a host's own win.
constexpr std::string_view kFileOptions[] = {
    "--model=", "--token-file=", "--admin-token-file=", "--tls-cert=", "--tls-key=", "--tls-ca="};

// Not one of each: mpirun cannot listen again on a port with connections of the generation before, for a minute.
constexpr int kPortsMin = 16;

std::optional<std::string> ReadEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

// "--token-file=F" as "LONGSHELF_TOKEN_FILE=F".
std::string AsVariable(std::string_view flag) {
  const size_t equals = flag.find('=');
  return EnvironmentName(flag.substr(2, equals - 2)).append(flag.substr(equals));
}

bool NamesFile(std::string_view flag) {
  for (const std::string_view option : kFileOptions) {
    if (flag.starts_with(option)) return true;
  }
  return false;
}

HostLauncher LauncherOf(const std::string& name) {
  if (name == "ssh") return HostLauncher::kSsh;
  return name == "srun" ? HostLauncher::kSrun : HostLauncher::kAgent;
}

// Only the token itself is kept with the options.
std::string TokenFileOf(const std::vector<std::string>& flags) {
  constexpr std::string_view kOption = "--token-file=";
  for (const std::string& flag : flags) {
    if (flag.starts_with(kOption)) return flag.substr(kOption.size());
  }
  return "";
}

LaunchRequest RequestFor(const SupervisorConfig& config, const Placement& placement, const GenerationDirs& dirs,
                         uint64_t generation) {
  LaunchRequest request;
  request.launcher = LauncherOf(config.launcher);
  request.generation = generation;
  request.hosts = placement.network.addresses;
  request.names = placement.names;
  request.shards_per_host = config.shards_per_host;
  request.run_dir = dirs.run.string();
  request.program = config.host_binary;
  request.port = config.host_port;
  request.token_file = TokenFileOf(config.shard_flags);
  request.tls_cert = config.shard.tls.certificate;
  request.tls_key = config.shard.tls.key;
  request.tls_ca = config.shard.tls.authority;
  request.daemon_port_begin = placement.daemon_port_begin;
  request.daemon_port_end = placement.daemon_port_end;
  // Half: a host that is missing should be said, and not that the start took long.
  request.wait_seconds = absl::ToInt64Seconds(config.start_timeout) / 2;
  request.silence_ms = absl::ToInt64Milliseconds(config.shard.host_silence);
  request.slurm_job = ReadEnvironment("SLURM_JOB_ID").value_or("");
  return request;
}

absl::Status DividePorts(const std::string& range, Placement& placement) {
  const std::vector<std::string> ends = absl::StrSplit(range, '-');
  int first = 0;
  int last = 0;
  if (ends.size() != 2 || !absl::SimpleAtoi(ends[0], &first) || !absl::SimpleAtoi(ends[1], &last) || first < 1 ||
      last > UINT16_MAX || last - first < kPortsMin - 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--mpi-ports is \"", range, "\"; give a range of at least ", kPortsMin, ", like 7320-7399"));
  }
  placement.daemon_port_begin = first;
  placement.daemon_port_end = first + (last - first + 1) / 4;
  placement.link_port = last;
  placement.store_link_port = last - 1;
  return absl::OkStatus();
}

// mpirun splits what it runs instead of ssh at spaces, and takes colons for alternatives.
absl::Status CheckAgentPath(const std::string& path) {
  if (path.find_first_of(" :\"'\\") == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "with several hosts, paths may not hold spaces, colons or quotes: ", path, "; set --work-dir or --host-binary"));
}

}  // namespace

absl::StatusOr<Placement> FindPlacement(const SupervisorConfig& config) {
  Placement placement;
  RETURN_IF_ERROR(DividePorts(config.mpi_ports, placement));
  ASSIGN_OR_RETURN(placement.names, ResolveHosts(config.hosts, ReadEnvironment, ReadPmixNodes));
  placement.n_shards = placement.names.empty() ? config.shard.n_shards
                                               : static_cast<int>(placement.names.size()) * config.shards_per_host;
  if (placement.names.size() > 1) {
    if (placement.store_link_port - placement.daemon_port_end < config.shards_per_host) {
      return absl::InvalidArgumentError(absl::StrCat("--mpi-ports is \"", config.mpi_ports, "\", too few for ",
                                                     config.shards_per_host,
                                                     " shards per host: a quarter is for mpirun, two for the links"));
    }
    ASSIGN_OR_RETURN(placement.network, FindGroupNetwork(placement.names, config.mpi_network));
  }
  if (placement.n_shards > 1) {
    ASSIGN_OR_RETURN(placement.daemon_port, FindFreePort(placement.daemon_port_begin, placement.daemon_port_end));
  }
  return placement;
}

absl::StatusOr<CommandLine> PrepareLaunch(const SupervisorConfig& config, const Placement& placement,
                                          const GenerationDirs& dirs, uint64_t generation, bool can_read_siblings) {
  LaunchInput input;
  input.n_shards = placement.n_shards;
  input.mpirun = config.mpirun;
  input.shard_binary = config.shard_binary;
  input.generation = generation;
  input.is_root = geteuid() == 0;
  input.can_read_siblings = can_read_siblings;
  input.daemon_port = placement.daemon_port;
  input.shard_port_begin = placement.daemon_port_end;
  input.shard_port_end = placement.store_link_port;
  input.environment = EnvironmentForChildren();
  if (placement.names.size() < 2) {
    input.shard_flags = config.shard_flags;
    return MakeLaunchLine(input);
  }
  LaunchRequest request = RequestFor(config, placement, dirs, generation);
  for (const std::string& flag : config.shard_flags) {
    if (NamesFile(flag)) {
      request.environment.push_back(AsVariable(flag));
    } else {
      input.shard_flags.push_back(flag);
    }
  }
  input.environment.insert(input.environment.end(), request.environment.begin(), request.environment.end());
  if (input.is_root) {
    request.environment.insert(request.environment.end(),
                               {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"});
  }
  const std::string file = (dirs.run / "launch-request").string();
  RETURN_IF_ERROR(CheckAgentPath(absl::StrCat(config.host_binary, file)));
  if (access(config.host_binary.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot run ", config.host_binary, " (--host-binary)"));
  }
  RETURN_IF_ERROR(WriteLaunchRequest(file, request));
  input.hosts.names = placement.network.addresses;
  input.hosts.shards_per_host = config.shards_per_host;
  input.hosts.network = placement.network.cidr;
  input.hosts.launch_agent = absl::StrCat(config.host_binary, " connect ", file);
  input.hosts.link_listen = absl::StrCat(placement.network.addresses[0], ":", placement.link_port);
  input.hosts.store_link_listen = absl::StrCat(placement.network.addresses[0], ":", placement.store_link_port);
  return MakeLaunchLine(input);
}

}  // namespace longshelf::worker
