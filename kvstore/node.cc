#include "kvstore/node.h"

#include <string>

#include "common/clock.h"
#include "common/metrics.h"
#include "store_metrics.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Duration kWarnInterval = absl::Minutes(1);

int Refuse(const char* what, const absl::Status& status) {
  spdlog::error("{}: {}", what, std::string(status.message()));
  return status.code() == absl::StatusCode::kUnavailable ? kExitUnavailable : kExitConfig;
}

}  // namespace

void AddNodeOptions(ConfigSpec& spec, NodeConfig* config) {
  config->server.listen = "127.0.0.1:7400";
  config->store.capacity_bytes = 1ull << 30;
  config->admin.listen = "127.0.0.1:7401";
  spec.Group("Service");
  spec.Add(&config->server.listen, "listen", "address and port for workers");
  spec.AddSecretFile(&config->server.token, "token-file",
                     "file with the token that callers share; needed beyond loopback");
  spec.Add(&config->server.insecure_internal, "insecure-internal", "listen beyond loopback without a token");
  spec.Add(&config->server.streams_max, "streams-max", "Put and Get calls at once", {1, 65536});
  spec.Add(&config->drain_timeout, "drain-timeout", "how long running calls may end after SIGTERM",
           {absl::ZeroDuration(), absl::Minutes(10)});
  spec.Group("Memory");
  spec.AddBytes(&config->store.capacity_bytes, "memory",
                "limit for everything stored: payloads, puts under way, and the index", {1 << 20, 16ull << 40});
  spec.Add(&config->store.parked_share, "parked-share", "part of the memory that parked sessions may claim",
           {0.0, 1.0});
  spec.Add(&config->store.floor_share, "floor-share",
           "part of the memory divided evenly among namespaces as what others cannot push out", {0.0, 1.0});
  spec.Group("Operation");
  AddAdminOptions(spec, &config->admin);
  AddLogOptions(spec, &config->log);
}

int RunNode(const NodeConfig& config, ShutdownSignals& signals) {
  SystemClock clock;
  Metrics metrics("longshelf-kvstore");
  StoreMetrics store_metrics(metrics);
  auto store = Store::Create(config.store);
  if (!store.ok()) return Refuse("store", store.status());
  auto server = Server::Start(config.server, **store, clock, metrics);
  if (!server.ok()) return Refuse("server", server.status());

  AdminOptions admin_options = config.admin;
  admin_options.insecure_internal = config.server.insecure_internal;
  auto admin = AdminServer::Start(admin_options, {.live = [] { return true; },
                                                  .ready = [] { return Readiness{.ready = true, .detail = "serving"}; },
                                                  .metrics =
                                                      [&] {
                                                        store_metrics.Update((*store)->Stats(clock.WallNow()));
                                                        return metrics.Serialize();
                                                      }});
  if (!admin.ok()) return Refuse("admin server", admin.status());

  spdlog::info("serving on port {}, {} bytes of memory, admin {}", (*server)->port(), config.store.capacity_bytes,
               (*admin)->url());
  const bool open = config.server.insecure_internal && config.server.token.empty();
  do {
    if (open) spdlog::warn("--insecure-internal: anyone who reaches {} can read and write", config.server.listen);
  } while (signals.Wait(open ? kWarnInterval : absl::InfiniteDuration()) == ShutdownSignals::Event::kTimeout);

  spdlog::info("stopping");
  (*server)->SetNotServing();
  (*server)->Shutdown(config.drain_timeout);
  return 0;
}

}  // namespace longshelf::kvstore
