#include <spdlog/spdlog.h>

#include "process/run_main.h"
#include "worker/supervisor.h"

namespace {

int Fail(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return status.code() == absl::StatusCode::kUnavailable ? longshelf::kExitUnavailable : longshelf::kExitConfig;
}

int Run(int argc, char** argv) {
  using namespace longshelf;
  worker::SupervisorConfig config;
  if (const ParseOutcome outcome = worker::ParseSupervisorConfig(argc, argv, &config); !outcome.run) {
    return outcome.Finish();
  }
  ServiceManager service_manager = ServiceManager::FromEnvironment();
  config.service_manager = &service_manager;
  ShutdownSignals signals;
  const Logging logging(config.shard.log, "longshelf-worker");
  SystemClock clock;
  Metrics metrics("longshelf-worker");
  auto tls = net::TlsIdentity::Load(config.shard.tls, clock, &metrics);
  if (!tls.ok()) return Fail(tls.status());
  config.admin.tls = *tls;
  auto supervisor = worker::Supervisor::Create(config, clock, signals, metrics);
  if (!supervisor.ok()) return Fail(supervisor.status());
  auto admin = AdminServer::Start(config.admin, {.live = [&] { return (*supervisor)->live(); },
                                                 .ready = [&] { return (*supervisor)->readiness(); },
                                                 .metrics = [&] { return metrics.Serialize(); }});
  if (!admin.ok()) return Fail(admin.status());
  spdlog::info("supervisor probes at {}", (*admin)->url());
  return (*supervisor)->Run();
}

}  // namespace

int main(int argc, char** argv) {
  return longshelf::RunMain([&] { return Run(argc, argv); }, longshelf::kServerFiles);
}
