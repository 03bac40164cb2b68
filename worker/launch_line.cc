#include "launch_line.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace longshelf::worker {
namespace {

// mpirun would place shards where the allocation says, or be told that it is a part of another job.
constexpr std::array<std::string_view, 12> kOuterJobVariables = {
    "OMPI_", "PMIX_", "ORTE_", "PRTE_", "OPAL_", "PMI_", "SLURM_", "PBS_", "LSB_", "SGE_", "PE_HOSTFILE", "COBALT_"};

bool IsOfOuterJob(std::string_view entry) {
  // Where Slurm is configured says nothing of a job, and srun may need it to bring up other hosts.
  if (entry.starts_with("SLURM_CONF=")) return false;
  return std::any_of(kOuterJobVariables.begin(), kOuterJobVariables.end(),
                     [entry](std::string_view prefix) { return entry.starts_with(prefix); });
}

using Settings = std::vector<std::pair<std::string, std::string>>;

// One machine: shared memory only, no listening socket in any shard.
void AppendOneHost(Settings& settings) {
  settings.insert(settings.end(), {{"btl", "self,vader"}, {"oob_tcp_if_include", "lo"}});
}

void AppendSeveralHosts(const LaunchInput& input, std::vector<std::string>& argv, Settings& settings) {
  const LaunchHosts& hosts = input.hosts;
  std::vector<std::string> slots;
  for (const std::string& name : hosts.names) slots.push_back(absl::StrCat(name, ":", hosts.shards_per_host));
  const std::string first = std::to_string(input.shard_port_begin);
  const std::string n_ports = std::to_string(input.shard_port_end - input.shard_port_begin);
  // Attached: a daemon that left its agent could not be ended by it.
  argv.insert(argv.end(), {"--host", absl::StrJoin(slots, ","), "--map-by", "slot", "--leave-session-attached"});
  settings.insert(settings.end(), {{"btl", "self,vader,tcp"},
                                   {"btl_tcp_if_include", hosts.network},
                                   {"btl_tcp_port_min_v4", first},
                                   {"btl_tcp_port_range_v4", n_ports},
                                   {"btl_tcp_port_min_v6", first},
                                   {"btl_tcp_port_range_v6", n_ports},
                                   {"oob_tcp_if_include", hosts.network},
                                   {"plm", "rsh"},
                                   {"plm_rsh_agent", hosts.launch_agent},
                                   {"plm_rsh_no_tree_spawn", "1"}});
}

void AppendMpirun(const LaunchInput& input, std::vector<std::string>& argv) {
  argv.insert(argv.end(), {input.mpirun, "--oversubscribe", "--bind-to", "none"});
  const std::string port = std::to_string(input.daemon_port);
  Settings settings = {
      {"pml", "ob1"},
      // Without it, more ranks than cores cost tens of milliseconds per exchange.
      {"mpi_yield_when_idle", "1"},
      // One port for both families, or there would be one of each, wherever they happen to be.
      {"oob_tcp_dynamic_ipv4_ports", port},
      {"oob_tcp_dynamic_ipv6_ports", port},
  };
  if (input.hosts.names.size() > 1) {
    AppendSeveralHosts(input, argv, settings);
  } else {
    AppendOneHost(settings);
  }
  if (!input.can_read_siblings) settings.emplace_back("btl_vader_single_copy_mechanism", "none");
  for (const auto& [name, value] : settings) argv.insert(argv.end(), {"--mca", name, value});
  argv.insert(argv.end(), {"-np", std::to_string(input.n_shards)});
}

}  // namespace

std::vector<std::string> WithoutOuterJob(const std::vector<std::string>& environment) {
  std::vector<std::string> out;
  for (const std::string& entry : environment) {
    if (!IsOfOuterJob(entry)) out.push_back(entry);
  }
  return out;
}

CommandLine MakeLaunchLine(const LaunchInput& input) {
  CommandLine line;
  if (input.n_shards > 1) AppendMpirun(input, line.argv);
  line.argv.push_back(input.shard_binary);
  line.argv.insert(line.argv.end(), input.shard_flags.begin(), input.shard_flags.end());
  line.argv.insert(line.argv.end(),
                   {"--shards=" + std::to_string(input.n_shards), "--generation=" + std::to_string(input.generation)});
  if (!input.hosts.link_listen.empty()) line.argv.push_back("--link-listen=" + input.hosts.link_listen);
  if (!input.hosts.store_link_listen.empty()) {
    line.argv.push_back("--store-link-listen=" + input.hosts.store_link_listen);
  }
  line.environment = WithoutOuterJob(input.environment);
  if (input.n_shards > 1 && input.is_root) {
    line.environment.insert(line.environment.end(), {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"});
  }
  return line;
}

}  // namespace longshelf::worker
