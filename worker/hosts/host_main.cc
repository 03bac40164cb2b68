// longshelf-host: this machine's part of shard groups that span several.
//   longshelf-host --listen ADDRESS:PORT   waits for groups
//   longshelf-host run                     serves one that ssh or srun brings
//   longshelf-host connect FILE HOST ...   what mpirun runs in place of ssh
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/shutdown.h"
#include "host_client.h"
#include "host_config.h"
#include "host_keeper.h"
#include "host_pipe_service.h"
#include "host_service.h"
#include "net/admin_server.h"
#include "process/run_main.h"
#include "process/service_manager.h"

namespace longshelf::worker {
namespace {

int Fail(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return absl::IsUnavailable(status) ? kExitUnavailable : kExitConfig;
}

int Serve(const HostConfig& config, ShutdownSignals& signals, ServiceManager& manager) {
  auto keeper = HostKeeper::Create(config.keeper);
  if (!keeper.ok()) return Fail(keeper.status());
  if (config.mode == HostMode::kRun) {
    const absl::Status status = ServePipe(**keeper, signals, config.server.silence);
    // Not over the thread that waits for input.
    if (!status.ok()) return Fail(status);
    keeper->reset();
    spdlog::shutdown();
    _exit(0);
  }
  SystemClock clock;
  Metrics metrics("longshelf-host");
  auto tls = net::TlsIdentity::Load(config.tls, clock, &metrics);
  if (!tls.ok()) return Fail(tls.status());
  HostServerOptions server_options = config.server;
  server_options.tls = *tls;
  const auto server = HostServer::Start(server_options, **keeper);
  if (!server.ok()) return Fail(server.status());
  AdminOptions admin_options = config.admin;
  admin_options.tls = *tls;
  auto& runs = metrics.AddGauge("longshelf_host_runs", "1 while a part of a group runs here.");
  const auto admin = AdminServer::Start(admin_options, {.live = [] { return true; },
                                                        .ready =
                                                            [] {
                                                              return Readiness{true, "waits for groups"};
                                                            },
                                                        .metrics =
                                                            [&] {
                                                              runs.Set((*keeper)->runs() ? 1 : 0);
                                                              return metrics.Serialize();
                                                            }});
  if (!admin.ok()) return Fail(admin.status());
  spdlog::info("admin on {}", (*admin)->url());
  manager.Tell({true, "waits for groups"});
  (*keeper)->Loop(signals);
  manager.Stopping();
  return 0;
}

int Connect(const HostConfig& config) {
  if (config.arguments.size() < 3) {
    spdlog::error("connect needs the request file, the host and a command; mpirun gives them");
    return kExitUsage;
  }
  const std::vector<std::string> command(config.arguments.begin() + 2, config.arguments.end());
  const absl::Status status = ConnectHost(config.arguments[0], config.arguments[1], command);
  return status.ok() ? 0 : Fail(status);
}

int Run(int argc, char** argv) {
  HostConfig config;
  if (const ParseOutcome outcome = ParseHostConfig(argc, argv, &config); !outcome.run) return outcome.Finish();
  if (config.mode == HostMode::kConnect) return Connect(config);
  ServiceManager manager = ServiceManager::FromEnvironment();
  ShutdownSignals signals;
  const Logging logging(config.log, "longshelf-host");
  return Serve(config, signals, manager);
}

}  // namespace
}  // namespace longshelf::worker

int main(int argc, char** argv) {
  return longshelf::RunMain([&] { return longshelf::worker::Run(argc, argv); }, longshelf::kServerFiles);
}
