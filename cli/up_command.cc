#include <stdlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/certificates.h"
#include "cli/child_process.h"
#include "cli/cluster_plan.h"
#include "cluster_runner.h"
#include "commands.h"
#include "common/config.h"
#include "common/shutdown.h"
#include "common/status.h"

namespace longshelf::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint16_t kDefaultHttpPort = 8080;
constexpr uint16_t kDefaultGrpcPort = 8081;

struct UpConfig {
  ClusterOptions cluster = {.kv_memory_bytes = int64_t{128} << 20, .store_memory_bytes = int64_t{256} << 20};
  int n_workers = 0;
  std::vector<std::string> shards;
  int http_port = -1;
  int grpc_port = -1;
  std::string log_dir;
  bool tls = false;
  absl::Duration start_timeout = absl::Minutes(10);
};

void AddOptions(ConfigSpec& spec, UpConfig* config) {
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Group("Cluster");
  spec.Add(&config->cluster.model, "model", "checkpoint directory; the bundled demo model when not given");
  spec.Add(&config->n_workers, "workers", "number of workers; 0 = as many as --shards names, or 2", {0, 16});
  spec.Add(&config->shards, "shards",
           "expert-parallel shards of each worker, or one number for all; not given = 1, but 2 for the second worker");
  spec.Add(&config->cluster.n_threads, "threads", "threads of each shard", {1, 256});
  spec.AddBytes(&config->cluster.kv_memory_bytes, "kv-memory", "memory for KV blocks of each shard",
                {1 << 20, int64_t{1} << 44});
  spec.Add(&config->cluster.n_stores, "stores", "number of KV stores", {1, 16});
  spec.AddBytes(&config->cluster.store_memory_bytes, "store-memory", "memory of each KV store",
                {1 << 20, int64_t{1} << 44});
  spec.Group("Local");
  spec.Add(&config->http_port, "port", "of HTTP; 0 = any; -1 = 8080, or any when that is taken", {-1, 65535});
  spec.Add(&config->grpc_port, "grpc-port", "of gRPC; 0 = any; -1 = 8081, or any when that is taken", {-1, 65535});
  spec.Add(&config->log_dir, "logs", "directory for log files; a temporary one when not given");
  spec.Add(&config->tls, "tls",
           "all connections with TLS, by certificates that are made in a directory beside the logs");
  spec.AddChoice(&config->cluster.log_level, "log-level", "of every program",
                 {"trace", "debug", "info", "warning", "error"});
  spec.Add(&config->start_timeout, "start-timeout", "to be ready", {absl::Seconds(1), absl::Hours(24)});
  spec.Add(&config->cluster.stop_timeout, "stop-timeout", "for each kind of program to end when stopping",
           {absl::ZeroDuration(), absl::Hours(1)});
  spec.Group("More flags for one kind of program");
  spec.Add(&config->cluster.router_flags, "router-flags", "for longshelf-router");
  spec.Add(&config->cluster.worker_flags, "worker-flags", "for longshelf-worker");
  spec.Add(&config->cluster.kvstore_flags, "kvstore-flags",
           "for longshelf-kvstore; of several, each has a directory of its own in --disk");
}

// Where the logs go; a temporary directory disappears again unless someone may want to read it.
class LogDirectory {
 public:
  static absl::StatusOr<LogDirectory> Make(const std::string& wanted) {
    std::error_code error;
    if (!wanted.empty()) {
      fs::create_directories(wanted, error);
      if (error) return absl::UnavailableError(absl::StrCat("--logs ", wanted, ": ", error.message()));
      return LogDirectory(wanted, false);
    }
    const fs::path parent = fs::temp_directory_path(error);
    // TMPDIR may name what does not exist.
    std::string name = ((error ? fs::path("/tmp") : parent) / "longshelf-up-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot make ", name, ": ", std::strerror(errno)));
    }
    return LogDirectory(name, true);
  }
  LogDirectory(LogDirectory&& other) noexcept
      : path_(std::move(other.path_)), remove_(std::exchange(other.remove_, false)) {}
  LogDirectory& operator=(LogDirectory&&) = delete;
  ~LogDirectory() {
    std::error_code error;
    if (remove_) fs::remove_all(path_, error);
  }
  void Keep() { remove_ = false; }
  const std::string& path() const { return path_; }

 private:
  LogDirectory(std::string path, bool remove) : path_(std::move(path)), remove_(remove) {}
  std::string path_;
  bool remove_;
};

absl::Status FillIn(UpConfig* config) {
  ASSIGN_OR_RETURN(config->cluster.shards, ShardsOfWorkers(config->n_workers, config->shards));
  config->cluster.program_dir = ProgramDirectory();
  if (config->cluster.model.empty()) {
    ASSIGN_OR_RETURN(config->cluster.model, FindDemoModel(config->cluster.program_dir));
  }
  std::error_code error;
  const fs::path model = fs::canonical(config->cluster.model, error);
  if (error || !fs::exists(model / "config.json", error)) {
    return absl::InvalidArgumentError(absl::StrCat("model: ", config->cluster.model, " has no config.json"));
  }
  config->cluster.model = model.string();
  return absl::OkStatus();
}

absl::StatusOr<ClusterPorts> ChoosePortsFor(const UpConfig& config) {
  std::random_device device;
  const auto choose = [](int asked, uint16_t otherwise) {
    return asked < 0 ? otherwise : static_cast<uint16_t>(asked);
  };
  const bool replace = config.http_port < 0 && config.grpc_port < 0;
  return ChoosePorts(
      choose(config.http_port, replace ? kDefaultHttpPort : 0),
      choose(config.grpc_port, replace ? kDefaultGrpcPort : 0), replace,
      ClusterPlan::n_other_ports(static_cast<size_t>(config.cluster.n_stores), config.cluster.shards.size()),
      [&] { return device(); });
}

void Announce(const ClusterPlan& plan, const UpConfig& config, const std::string& log_dir, absl::Duration took) {
  std::cout << absl::StrFormat("longshelf is up after %.1f s: model %s, router, KV store, %d workers with %s shards\n",
                               absl::ToDoubleSeconds(took), plan.model_name, config.cluster.shards.size(),
                               absl::StrJoin(config.cluster.shards, " and "));
  std::cout << "  HTTP     " << plan.http_url << "/v1\n  gRPC     " << plan.grpc_address << "\n";
  for (const Member& member : plan.members) {
    std::cout << absl::StrFormat("  %-8s %s://127.0.0.1:%d/metrics\n", member.name,
                                 plan.ca_file.empty() ? "http" : "https", member.admin_port);
  }
  std::cout << "  logs     " << log_dir << "\n\n"
            << "curl -s " << (plan.ca_file.empty() ? "" : absl::StrCat("--cacert ", plan.ca_file, " ")) << plan.http_url
            << "/v1/chat/completions -H 'Content-Type: application/json' -d '{\"model\": \"" << plan.model_name
            << R"(", "messages": [{"role": "user", "content": "What is longshelf?"}], "temperature": 0}')"
            << "\n"
            << config.cluster.program_dir << "/longshelf chat --url " << plan.http_url
            << (plan.ca_file.empty() ? "" : absl::StrCat(" --ca-file ", plan.ca_file)) << "\n\nCtrl-C stops it."
            << std::endl;
}

int Fail(const absl::Status& status) {
  std::cerr << "longshelf up: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitUnavailable;
}

// The files of an earlier run in the same directory are replaced: nothing of that run goes on.
absl::Status MakeCertificatesFor(UpConfig& config, const std::string& log_dir, const Clock& clock) {
  if (!config.tls) return absl::OkStatus();
  config.cluster.certificates = fs::absolute(fs::path(log_dir) / "certificates").string();
  return MakeCertificates({.directory = config.cluster.certificates, .renew = true}, clock.WallNow()).status();
}

int RunCluster(UpConfig& config, ShutdownSignals& signals) {
  const absl::StatusOr<ClusterPorts> ports = ChoosePortsFor(config);
  if (!ports.ok()) return Fail(ports.status());
  absl::StatusOr<LogDirectory> logs = LogDirectory::Make(config.log_dir);
  if (!logs.ok()) return Fail(logs.status());
  const SystemClock clock;
  if (const absl::Status made = MakeCertificatesFor(config, logs->path(), clock); !made.ok()) return Fail(made);
  const ClusterPlan plan = PlanCluster(config.cluster, *ports);
  const absl::Time start = clock.Now();
  ClusterRunner runner(plan, logs->path(), signals);
  absl::Status status = runner.Start(config.start_timeout);
  if (status.ok()) {
    Announce(plan, config, logs->path(), clock.Now() - start);
    status = runner.Watch();
  }
  std::cerr << "\nstopping (Ctrl-C again: at once)\n";
  runner.Stop(config.cluster.stop_timeout);
  if (status.ok() || absl::IsCancelled(status)) return 0;
  logs->Keep();
  return Fail(status);
}

}  // namespace

int RunUp(int argc, const char* const* argv) {
  UpConfig config;
  ConfigSpec spec("longshelf up",
                  "Starts a cluster on this machine: a router, workers and a KV store, all on 127.0.0.1.");
  AddOptions(spec, &config);
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  if (const absl::Status status = FillIn(&config); !status.ok()) return Fail(status);
  ShutdownSignals signals;
  return RunCluster(config, signals);
}

}  // namespace longshelf::cli
