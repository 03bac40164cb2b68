#include "kvstore/node.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/status.h"
#include "disk/disk_tier.h"
#include "disk/posix_file_system.h"
#include "process/available_memory.h"
#include "store_metrics.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Duration kWarnInterval = absl::Minutes(1);

int Refuse(const char* what, const absl::Status& status) {
  spdlog::error("{}: {}", what, std::string(status.message()));
  return status.code() == absl::StatusCode::kUnavailable ? kExitUnavailable : kExitConfig;
}

disk::NodeId RandomNodeId() {
  std::random_device random;
  disk::NodeId id;
  for (uint8_t& byte : id) byte = static_cast<uint8_t>(random());
  return id;
}

absl::Status CheckMemory(uint64_t wanted) {
  const AvailableMemory available = FindAvailableMemory();
  if (wanted <= available.bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("--memory is ", wanted, " bytes and ", available.bytes, " are available in ", available.bound_by));
}

// Null without --disk. Reads what is there, so it may take seconds.
absl::StatusOr<std::unique_ptr<disk::DiskTier>> OpenDisk(const NodeConfig& config, disk::FileSystem* files,
                                                         const Clock& clock) {
  if (files == nullptr) return nullptr;
  std::unique_ptr<const disk::SecretKey> master;
  if (!config.disk_key_file.empty()) {
    absl::StatusOr<std::unique_ptr<disk::SecretKey>> read = disk::ReadKeyFile(config.disk_key_file);
    if (!read.ok()) return Annotate(read.status(), "--disk-key-file");
    master = *std::move(read);
  }
  const bool encrypted = master != nullptr;
  ASSIGN_OR_RETURN(std::unique_ptr<disk::DiskTier> tier,
                   disk::DiskTier::Open(config.disk, *files, clock, RandomNodeId(), std::move(master)));
  const disk::DiskStats stats = tier->Stats();
  spdlog::info("{} objects on disk, {} of {} bytes, {}", stats.n_objects, stats.live_bytes, stats.quota_bytes,
               encrypted ? "encrypted" : "not encrypted");
  return tier;
}

// Null without --peers.
absl::StatusOr<std::unique_ptr<Peers>> StartPeers(const NodeConfig& config,
                                                  const std::shared_ptr<net::TlsIdentity>& tls, Store& store,
                                                  const Clock& clock, Metrics& metrics) {
  if (config.peers.empty()) return nullptr;
  PeerOptions options = config.peer;
  options.stores = absl::StrJoin(config.peers, ",");
  options.token = config.server.token;
  options.tls = tls;
  if (options.advertise.empty()) options.advertise = config.server.listen;
  return Peers::Start(options, store, clock, metrics);
}

// Until the first signal to stop.
void Serve(const NodeConfig& config, Store& store, const Clock& clock, ShutdownSignals& signals,
           ServiceManager& manager) {
  const bool open = config.server.insecure_internal && config.server.token.empty() && config.tls.empty();
  const absl::Duration wait = std::min(open ? kWarnInterval : absl::InfiniteDuration(), manager.beat());
  absl::Time warn_at = open ? clock.Now() : absl::InfiniteFuture();
  manager.Tell({.ready = true, .detail = "serving"});
  do {
    if (clock.Now() >= warn_at) {
      spdlog::warn("--insecure-internal: anyone who reaches {} can read and write", config.server.listen);
      warn_at = clock.Now() + kWarnInterval;
    }
    store.Stats(clock.WallNow());  // comes back where calls do, too
    manager.Alive();
  } while (signals.Wait(wait) == ShutdownSignals::Event::kTimeout);
  manager.Stopping();
}

}  // namespace

void AddNodeOptions(ConfigSpec& spec, NodeConfig* config) {
  config->server.listen = "127.0.0.1:7400";
  config->store.capacity_bytes = 1ull << 30;
  config->admin.listen = "127.0.0.1:7401";
  spec.Group("Service");
  spec.Add(&config->server.listen, "listen", "address and port for workers");
  spec.AddSecretFile(&config->server.token, "token-file",
                     "file with the token that callers share; it or TLS is needed beyond loopback");
  spec.Add(&config->server.insecure_internal, "insecure-internal", "listen beyond loopback without token and TLS");
  spec.Add(&config->server.streams_max, "streams-max", "Put and Get calls at once", {1, 65536});
  spec.Add(&config->drain_timeout, "drain-timeout", "how long running calls may end after SIGTERM",
           {absl::ZeroDuration(), absl::Minutes(10)});
  net::AddTlsOptions(spec, &config->tls);
  spec.Group("Memory");
  spec.AddBytes(&config->store.capacity_bytes, "memory",
                "limit for everything stored: payloads, puts under way, and the index", {1 << 20, 16ull << 40});
  spec.Add(&config->store.parked_share, "parked-share", "part of the memory that parked sessions may claim",
           {0.0, 1.0});
  spec.Add(&config->store.floor_share, "floor-share",
           "part of the memory divided evenly among namespaces as what others cannot push out", {0.0, 1.0});
  spec.Group("Disk");
  spec.Add(&config->disk.directory, "disk", "directory for what outlives memory and restarts; none: memory only");
  spec.AddBytes(&config->disk.quota_bytes, "disk-size", "space set aside in --disk, in segments of 256MiB",
                {0, 1024ull << 40});
  spec.Add(&config->disk.parked_share, "disk-parked-share", "part of the disk that parked sessions may claim",
           {0.0, 0.9});
  spec.Add(&config->disk_key_file, "disk-key-file",
           "file with the key that what is on disk is encrypted under: 64 hexadecimal characters; none: it is not");
  spec.AddBytes(&config->disk.scrub_bytes_per_s, "disk-scrub", "bytes per second that are read again and checked",
                {0, 1ll << 40});
  spec.Check([config] {
    if (config->disk.directory.empty() == (config->disk.quota_bytes == 0)) return absl::OkStatus();
    return absl::InvalidArgumentError("--disk and --disk-size belong together");
  });
  spec.Check([config] {
    if (config->disk_key_file.empty() || !config->disk.directory.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("--disk-key-file: there is no --disk to encrypt");
  });
  spec.Group("Cluster");
  spec.Add(&config->peers, "peers",
           "all stores of the cluster, this one included: HOST:PORT[;weight=2][;zone=a],..., the same everywhere, or "
           "dns:HOST:PORT");
  spec.Add(&config->peer.advertise, "advertise",
           "this store's HOST:PORT in --peers, or its address under the name there; default: --listen");
  spec.Add(&config->peer.n_replicas, "replicas", "stores that hold what is parked", {1, 7});
  spec.AddBytes(&config->peer.repair_bytes_per_s, "repair-rate", "bytes per second that repair may send",
                {64 << 10, 64ll << 30});
  spec.Add(&config->peer.down_after, "down-after", "a store that is silent for so long is replaced by the next one",
           {absl::Seconds(2), absl::Hours(24)});
  spec.Add(&config->peer.repair_interval, "repair-interval", "how often all that is parked is gone over",
           {absl::Seconds(1), absl::Hours(240)});
  spec.Add(&config->handoff_timeout, "handoff-timeout",
           "how long, after SIGTERM, what is parked may be brought to other stores: for one that leaves for good, or "
           "has no --disk",
           {absl::ZeroDuration(), absl::Hours(24)});
  spec.Group("Operation");
  AddAdminOptions(spec, &config->admin);
  AddLogOptions(spec, &config->log);
}

int RunNode(const NodeConfig& config, ShutdownSignals& signals, ServiceManager& manager) {
  SystemClock clock;
  Metrics metrics("longshelf-kvstore");
  StoreMetrics store_metrics(metrics);
  std::optional<DiskMetrics> disk_metrics;
  const std::unique_ptr<disk::FileSystem> files =
      config.disk.directory.empty() ? nullptr : disk::MakePosixFileSystem(disk::DirectIo::kAuto);
  if (const absl::Status status = CheckMemory(config.store.capacity_bytes); !status.ok())
    return Refuse("memory", status);
  auto tier = OpenDisk(config, files.get(), clock);
  if (!tier.ok()) return Refuse("disk", tier.status());
  if (*tier != nullptr) disk_metrics.emplace(metrics);
  auto store = Store::Create(config.store, *std::move(tier));
  if (!store.ok()) return Refuse("store", store.status());
  auto tls = net::TlsIdentity::Load(config.tls, clock, &metrics);
  if (!tls.ok()) return Refuse("TLS", tls.status());
  ServerOptions server_options = config.server;
  server_options.tls = *tls;
  auto server = Server::Start(server_options, **store, clock, metrics);
  if (!server.ok()) return Refuse("server", server.status());

  AdminOptions admin_options = config.admin;
  admin_options.insecure_internal = config.server.insecure_internal;
  admin_options.tls = *tls;
  auto admin = AdminServer::Start(admin_options, {.live = [] { return true; },
                                                  .ready = [] { return Readiness{.ready = true, .detail = "serving"}; },
                                                  .metrics =
                                                      [&] {
                                                        store_metrics.Update((*store)->Stats(clock.WallNow()));
                                                        if (disk_metrics)
                                                          disk_metrics->Update(*(*store)->StatsOfDisk());
                                                        return metrics.Serialize();
                                                      }});
  if (!admin.ok()) return Refuse("admin server", admin.status());

  spdlog::info("serving on port {}, {} bytes of memory, admin {}", (*server)->port(), config.store.capacity_bytes,
               (*admin)->url());
  auto peers = StartPeers(config, *tls, **store, clock, metrics);
  if (!peers.ok()) return Refuse("peers", peers.status());
  Serve(config, **store, clock, signals, manager);

  spdlog::info("stopping");
  (*server)->SetNotServing();
  if (*peers != nullptr && config.handoff_timeout > absl::ZeroDuration()) {
    const bool is_done = (*peers)->HandOver(config.handoff_timeout);
    spdlog::info(is_done ? "what is parked is on other stores" : "not all that is parked is on other stores yet");
  }
  peers->reset();
  (*server)->Shutdown(config.drain_timeout);
  return 0;
}

}  // namespace longshelf::kvstore
