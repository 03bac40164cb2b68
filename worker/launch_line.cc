#include "launch_line.h"

#include <array>
#include <string_view>
#include <utility>

namespace longshelf::worker {
namespace {

constexpr std::array<std::string_view, 5> kMpiVariables = {"OMPI_", "PMIX_", "ORTE_", "PRTE_", "OPAL_"};

bool IsMpiVariable(std::string_view entry) {
  for (const std::string_view prefix : kMpiVariables) {
    if (entry.starts_with(prefix)) return true;
  }
  return false;
}

void AppendMpirun(const LaunchInput& input, std::vector<std::string>& argv) {
  argv.insert(argv.end(), {input.mpirun, "--oversubscribe", "--bind-to", "none"});
  std::vector<std::pair<std::string, std::string>> settings = {
      // One machine: shared memory only, no listening socket in any shard.
      {"pml", "ob1"},
      {"btl", "self,vader"},
      {"oob_tcp_if_include", "lo"},
      // Without it, more ranks than cores cost tens of milliseconds per exchange.
      {"mpi_yield_when_idle", "1"},
      {"btl_vader_backing_directory", input.shm_dir},
      {"osc_sm_backing_directory", input.shm_dir},
      {"orte_tmpdir_base", input.tmp_dir},
  };
  if (!input.can_read_siblings) settings.emplace_back("btl_vader_single_copy_mechanism", "none");
  for (const auto& [name, value] : settings) argv.insert(argv.end(), {"--mca", name, value});
  argv.insert(argv.end(), {"-np", std::to_string(input.n_shards)});
}

}  // namespace

CommandLine MakeLaunchLine(const LaunchInput& input) {
  CommandLine line;
  if (input.n_shards > 1) AppendMpirun(input, line.argv);
  line.argv.push_back(input.shard_binary);
  line.argv.insert(line.argv.end(), input.shard_flags.begin(), input.shard_flags.end());
  line.argv.insert(line.argv.end(), {"--shards=" + std::to_string(input.n_shards), "--run-dir=" + input.run_dir,
                                     "--generation=" + std::to_string(input.generation),
                                     "--supervisor-pid=" + std::to_string(input.supervisor_pid)});
  for (const std::string& entry : input.environment) {
    if (!IsMpiVariable(entry)) line.environment.push_back(entry);
  }
  if (input.n_shards > 1 && input.is_root) {
    line.environment.insert(line.environment.end(), {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"});
  }
  return line;
}

}  // namespace longshelf::worker
