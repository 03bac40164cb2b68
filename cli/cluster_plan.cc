#include "cli/cluster_plan.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"

namespace longshelf::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kWorkersMax = 16;
constexpr int kShardsMax = 16;
constexpr absl::Duration kRouterEnds = absl::Seconds(6);  // what it needs behind its drain, to park what was cut off
constexpr uint16_t kFirstPort = 10000;
constexpr uint16_t kLastPort = 32767;  // below Linux's range for outgoing connections

std::string Address(uint16_t port) { return absl::StrCat("127.0.0.1:", port); }

// A port that is ours while this lives.
class HeldPort {
 public:
  explicit HeldPort(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), port_(port) {
    const int on = 1;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // as servers do: past connections do not count
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    held_ = fd_ >= 0 && bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 && listen(fd_, 1) == 0;
  }
  ~HeldPort() {
    if (fd_ >= 0) close(fd_);
  }
  HeldPort(HeldPort&& other) noexcept : fd_(std::exchange(other.fd_, -1)), port_(other.port_), held_(other.held_) {}
  HeldPort& operator=(HeldPort&&) = delete;
  bool held() const { return held_; }
  uint16_t port() const { return port_; }

 private:
  int fd_;
  uint16_t port_;
  bool held_ = false;
};

absl::StatusOr<HeldPort> HoldAny(const std::function<uint32_t()>& random) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    HeldPort port(static_cast<uint16_t>(kFirstPort + random() % (kLastPort - kFirstPort + 1)));
    if (port.held()) return port;
  }
  return absl::UnavailableError("no free port between 10000 and 32767 on 127.0.0.1");
}

absl::StatusOr<HeldPort> HoldWanted(uint16_t wanted, bool replace, const std::function<uint32_t()>& random) {
  if (wanted == 0) return HoldAny(random);
  HeldPort port(wanted);
  if (port.held()) return port;
  if (replace) return HoldAny(random);
  return absl::UnavailableError(absl::StrCat("port ", wanted, " of 127.0.0.1 is taken; choose another, or 0 for any"));
}

absl::Duration DrainTimeout(absl::Duration stop_timeout) {
  return std::max(stop_timeout - kRouterEnds, absl::ZeroDuration());
}

void Append(std::vector<std::string>& args, const std::vector<std::string>& more) {
  args.insert(args.end(), more.begin(), more.end());
}

// Two stores in one directory would write over each other.
std::vector<std::string> FlagsOfStore(std::vector<std::string> flags, const std::string& name) {
  for (size_t i = 0; i < flags.size(); ++i) {
    const bool is_behind = i > 0 && flags[i - 1] == "--disk";
    if (is_behind || flags[i].starts_with("--disk=")) absl::StrAppend(&flags[i], "/", name);
  }
  return flags;
}

// Who a member of this role is to the others.
std::vector<std::string> TlsFlags(const ClusterOptions& options, const char* role) {
  if (options.certificates.empty()) return {};
  const std::string& at = options.certificates;
  return {absl::StrCat("--tls-cert=", at, "/", role, ".crt"), absl::StrCat("--tls-key=", at, "/", role, ".key"),
          absl::StrCat("--tls-ca=", at, "/ca.crt")};
}

}  // namespace

ClusterPlan PlanCluster(const ClusterOptions& options, const ClusterPorts& ports) {
  ClusterPlan plan;
  const fs::path model = fs::path(options.model).lexically_normal();
  plan.model_name = (model.has_filename() ? model : model.parent_path()).filename().string();
  const bool with_tls = !options.certificates.empty();
  if (with_tls) plan.ca_file = options.certificates + "/ca.crt";
  plan.http_url = absl::StrCat(with_tls ? "https://" : "http://", Address(ports.http));
  plan.grpc_address = Address(ports.grpc);
  size_t next_port = 0;
  const auto take_port = [&] { return ports.others.at(next_port++); };
  const auto program = [&](const char* name) { return (fs::path(options.program_dir) / name).string(); };
  const std::string log_level = "--log-level=" + options.log_level;

  std::vector<std::string> store_addresses;
  for (int i = 0; i < options.n_stores; ++i) store_addresses.push_back(Address(take_port()));
  const std::string stores = absl::StrJoin(store_addresses, ",");
  for (int i = 0; i < options.n_stores; ++i) {
    const std::string name = options.n_stores == 1 ? "kvstore" : absl::StrCat("kvstore-", i + 1);
    Member store = {Member::Role::kKvstore, name, program("longshelf-kvstore"), {}, take_port()};
    store.args = {"--listen=" + store_addresses[static_cast<size_t>(i)], "--admin-listen=" + Address(store.admin_port),
                  absl::StrCat("--memory=", options.store_memory_bytes), log_level};
    Append(store.args, TlsFlags(options, "kvstore"));
    if (options.n_stores > 1) Append(store.args, {"--peers=" + stores, "--down-after=10s"});
    Append(store.args, options.n_stores == 1 ? options.kvstore_flags : FlagsOfStore(options.kvstore_flags, name));
    plan.members.push_back(std::move(store));
  }

  std::vector<std::string> worker_addresses;
  for (size_t i = 0; i < options.shards.size(); ++i) {
    const std::string name = absl::StrCat("worker-", i + 1);
    worker_addresses.push_back(Address(take_port()));
    Member worker = {Member::Role::kWorker, name, program("longshelf-worker"), {}, take_port()};
    worker.args = {"--model=" + options.model,
                   "--model-name=" + plan.model_name,
                   "--worker-id=" + name,
                   "--listen=" + worker_addresses.back(),
                   "--admin-listen=" + Address(worker.admin_port),
                   "--supervisor-listen=" + Address(take_port()),
                   absl::StrCat("--shards=", options.shards[i]),
                   absl::StrCat("--threads=", options.n_threads),
                   absl::StrCat("--kv-memory=", options.kv_memory_bytes),
                   "--kvstore=" + stores,
                   log_level};
    Append(worker.args, TlsFlags(options, "worker"));
    Append(worker.args, options.worker_flags);
    plan.members.push_back(std::move(worker));
  }

  Member router = {Member::Role::kRouter, "router", program("longshelf-router"), {}, take_port()};
  router.args = {"--model=" + options.model,
                 "--model-name=" + plan.model_name,
                 "--workers=" + absl::StrJoin(worker_addresses, ","),
                 "--listen=" + Address(ports.http),
                 "--grpc-listen=" + plan.grpc_address,
                 "--admin-listen=" + Address(router.admin_port),
                 "--kvstore=" + stores,
                 absl::StrCat("--drain-timeout=", absl::FormatDuration(DrainTimeout(options.stop_timeout))),
                 log_level};
  Append(router.args, TlsFlags(options, "router"));
  if (with_tls) {
    Append(router.args, {"--public-tls-cert=" + options.certificates + "/router.crt",
                         "--public-tls-key=" + options.certificates + "/router.key"});
  }
  Append(router.args, options.router_flags);
  plan.members.push_back(std::move(router));
  return plan;
}

absl::StatusOr<std::vector<int>> ShardsOfWorkers(int n_workers, const std::vector<std::string>& shards) {
  std::vector<int> out;
  for (const std::string& text : shards) {
    int n = 0;
    if (!absl::SimpleAtoi(text, &n) || n < 1 || n > kShardsMax) {
      return absl::InvalidArgumentError(absl::StrCat("shards: ", text, " is not a number from 1 to ", kShardsMax));
    }
    out.push_back(n);
  }
  if (n_workers == 0) n_workers = out.size() > 1 ? static_cast<int>(out.size()) : 2;
  if (n_workers < 1 || n_workers > kWorkersMax) {
    return absl::InvalidArgumentError(absl::StrCat("workers: ", n_workers, " is outside 1 to ", kWorkersMax));
  }
  const auto count = static_cast<size_t>(n_workers);
  if (out.empty()) {
    out.assign(count, 1);
    if (count > 1) out[1] = 2;
  }
  if (out.size() == 1) out.assign(count, out[0]);
  if (out.size() != count) {
    return absl::InvalidArgumentError(absl::StrCat("shards names ", out.size(), " workers, but workers is ", count));
  }
  return out;
}

absl::StatusOr<std::string> FindDemoModel(const std::string& program_dir) {
  std::error_code error;
  fs::path above = fs::path(program_dir);
  for (int level = 0; level < 6 && !above.empty(); ++level) {
    for (const char* place : {"models/demo", "share/longshelf/models/demo"}) {
      if (fs::exists(above / place / "config.json", error)) return (above / place).string();
    }
    if (above == above.parent_path()) break;
    above = above.parent_path();
  }
  return absl::NotFoundError(absl::StrCat("no models/demo above ", program_dir, "; name a checkpoint with --model"));
}

absl::StatusOr<ClusterPorts> ChoosePorts(uint16_t wanted_http, uint16_t wanted_grpc, bool replace, size_t n_others,
                                         const std::function<uint32_t()>& random) {
  // All are held until all are chosen, so none is chosen twice.
  ASSIGN_OR_RETURN(const HeldPort http, HoldWanted(wanted_http, replace, random));
  ASSIGN_OR_RETURN(const HeldPort grpc, HoldWanted(wanted_grpc, replace, random));
  std::vector<HeldPort> held;
  ClusterPorts ports = {.http = http.port(), .grpc = grpc.port(), .others = {}};
  for (size_t i = 0; i < n_others; ++i) {
    ASSIGN_OR_RETURN(HeldPort port, HoldAny(random));
    ports.others.push_back(port.port());
    held.push_back(std::move(port));
  }
  return ports;
}

}  // namespace longshelf::cli
