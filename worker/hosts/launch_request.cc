#include "launch_request.h"

#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace longshelf::worker {

NLOHMANN_JSON_SERIALIZE_ENUM(HostLauncher, {{HostLauncher::kAgent, "agent"},
                                            {HostLauncher::kSsh, "ssh"},
                                            {HostLauncher::kSrun, "srun"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LaunchRequest, launcher, generation, hosts, names, shards_per_host, run_dir, program,
                                   port, token_file, tls_cert, tls_key, tls_ca, daemon_port_begin, daemon_port_end,
                                   wait_seconds, silence_ms, slurm_job, environment)

absl::Status WriteLaunchRequest(const std::filesystem::path& path, const LaunchRequest& request) {
  std::ofstream out(path, std::ios::binary);
  chmod(path.c_str(), 0600);
  out << nlohmann::json(request).dump(1) << '\n';
  out.flush();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path.string()));
}

absl::StatusOr<LaunchRequest> ReadLaunchRequest(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path.string()));
  const nlohmann::json json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  LaunchRequest request;
  try {
    request = json.get<LaunchRequest>();
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", error.what()));
  }
  return request;
}

}  // namespace longshelf::worker
