#include <cstdio>

#include "common/shutdown.h"
#include "process/run_main.h"
#include "process/service_manager.h"
#include "router/heap.h"
#include "router/router_config.h"
#include "router/router_service.h"

namespace {

int Run(int argc, char** argv) {
  longshelf::router::KeepHeapSmall();
  longshelf::ServiceManager manager = longshelf::ServiceManager::FromEnvironment();
  longshelf::ShutdownSignals signals;
  longshelf::router::RouterConfig config;
  longshelf::ConfigSpec spec = longshelf::router::RouterOptions(&config);
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();

  const longshelf::Logging logging(config.log, "longshelf-router");
  longshelf::SystemClock clock;
  const auto service = longshelf::router::RouterService::Start(config, clock);
  if (!service.ok()) {
    std::fprintf(stderr, "longshelf-router: %s\n", std::string(service.status().message()).c_str());
    return longshelf::router::ExitCodeOf(service.status());
  }
  longshelf::ServeUntilStopped(
      signals, manager, [&] { return (*service)->live(); }, [&] { return (*service)->readiness(); });
  (*service)->BeginDrain([&] { signals.Wake(); });
  signals.Wait(config.drain_timeout + longshelf::router::RouterService::kCutOffAtMost);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return longshelf::RunMain([&] { return Run(argc, argv); }, longshelf::kServerFiles);
}
