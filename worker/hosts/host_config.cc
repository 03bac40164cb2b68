#include "host_config.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "work_dir.h"

namespace longshelf::worker {
namespace {

// What this host may have elsewhere than the first one: the shards' options that name files.
void AddShardFiles(ConfigSpec& spec, std::string* model, std::string* token_file) {
  spec.Group("This host's files");
  spec.Add(model, "model", "checkpoint directory on this host; as on the first host when not given");
  spec.Add(token_file, "shard-token-file", "--token-file for shards on this host; as on the first when not given");
}

}  // namespace

ParseOutcome ParseHostConfig(int argc, const char* const* argv, HostConfig* config) {
  if (argc > 1 && std::string_view(argv[1]) == "connect") {
    config->mode = HostMode::kConnect;
    config->arguments.assign(argv + 2, argv + argc);
    return {.run = true};
  }
  std::vector<const char*> rest(argv, argv + argc);
  if (argc > 1 && std::string_view(argv[1]) == "run") {
    config->mode = HostMode::kRun;
    rest.erase(rest.begin() + 1);
  }
  config->server.listen = "127.0.0.1:7310";
  config->keeper.work_dir = DefaultWorkDir();
  std::string model;
  std::string token_file;
  ConfigSpec spec("longshelf-host", "Runs this machine's part of shard groups that span several machines.");
  spec.Group("Endpoint");
  spec.Add(&config->server.listen, "listen", "address and port where the first host of a group asks");
  spec.AddSecretFile(&config->server.token, "token-file", "file with the token that internal callers share");
  spec.Add(&config->server.insecure_internal, "insecure-internal",
           "accept callers from the network without token and TLS");
  spec.Add(&config->server.silence, "host-silence", "a first host that says nothing for longer is gone",
           {absl::Seconds(1), absl::Hours(1)});
  spec.Add(&config->keeper.drain_timeout, "drain-timeout",
           "how long a group may go on after SIGTERM, for its first host to end it",
           {absl::ZeroDuration(), absl::Hours(24)});
  AddAdminOptions(spec, &config->admin);
  net::AddTlsOptions(spec, &config->tls);
  AddShardFiles(spec, &model, &token_file);
  spec.Group("Processes");
  spec.Add(&config->keeper.work_dir, "work-dir", "private directory for run files; removed contents after each group");
  spec.Add(&config->keeper.shm_root, "shm-dir", "where MPI's shared segments go");
  spec.Add(&config->keeper.daemon, "orted", "Open MPI's daemon");
  spec.Group("Log");
  AddLogOptions(spec, &config->log);
  ParseOutcome outcome = spec.Parse(static_cast<int>(rest.size()), rest.data());
  config->admin.insecure_internal = config->server.insecure_internal;
  const std::pair<const char*, const std::string&> files[] = {{"model", model},
                                                              {"token-file", token_file},
                                                              {"tls-cert", config->tls.certificate},
                                                              {"tls-key", config->tls.key},
                                                              {"tls-ca", config->tls.authority}};
  for (const auto& [option, path] : files) {
    if (!path.empty()) config->keeper.environment.push_back(absl::StrCat(EnvironmentName(option), "=", path));
  }
  return outcome;
}

}  // namespace longshelf::worker
