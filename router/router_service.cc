#include "router/router_service.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "kvstore/cluster_client.h"
#include "proto/internal_auth.h"
#include "router/audit_log.h"
#include "router/auth.h"
#include "router/dispatcher.h"
#include "router/http_api.h"
#include "router/http_server.h"
#include "router/inference_service.h"
#include "router/metrics.h"
#include "router/request_core.h"
#include "router/served_model.h"
#include "router/session_store.h"
#include "router/sessions.h"
#include "router/worker_client.h"

namespace longshelf::router {
namespace asio = boost::asio;

namespace {

constexpr std::chrono::milliseconds kTick{50};
constexpr absl::Duration kLoopIsAliveWithin = absl::Seconds(5);
constexpr absl::Duration kGrpcGrace = absl::Milliseconds(200);
// Of what was cut off; less than kCutOffAtMost together.
constexpr absl::Duration kParkAtMost = absl::Seconds(3);
constexpr absl::Duration kStoreAtMost = absl::Milliseconds(1500);

absl::Status CheckPublicAddress(const std::string& address, const char* option, bool is_safe, bool insecure_public) {
  if (address.empty() || is_safe || insecure_public || proto::IsLoopback(address)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("--", option, " ", address,
                                                    " is not a loopback address: give --api-keys FILE or "
                                                    "--public-tls-client-ca FILE (gRPC: and --public-tls-cert and "
                                                    "--public-tls-key), or --insecure-public if this network may do "
                                                    "everything"));
}

DispatcherConfig DispatcherConfigOf(const RouterConfig& config) {
  DispatcherConfig out;
  out.queue_capacity = config.queue_max;
  out.queue_timeout = config.queue_timeout;
  out.wait_max = config.wait_max;
  out.resume_timeout = config.resume_timeout;
  out.stall_timeout = config.stall_timeout;
  return out;
}

// A body needs up to so many times its size while it is prepared: the parser's index and tree, the messages, the text.
constexpr uint64_t kPreparingFactor = 15;
// Of what all bodies may take, this much is for those that are being received or wait; the rest is for those that are
// prepared.
uint64_t BodiesWaitingBytesMax(const RouterConfig& config) { return config.bodies_bytes_max / 4 * 3; }
uint64_t PreparingBytesMax(const RouterConfig& config) {
  return (config.bodies_bytes_max - BodiesWaitingBytesMax(config)) / kPreparingFactor;
}

HttpServerConfig HttpServerConfigOf(const RouterConfig& config, std::shared_ptr<net::TlsIdentity> tls) {
  HttpServerConfig out;
  out.tls = std::move(tls);
  out.listen = config.listen;
  out.connections_max = config.connections_max;
  out.connections_per_address_max = config.connections_per_address_max;
  out.body_bytes_max = config.body_bytes_max;
  out.bodies_bytes_max = BodiesWaitingBytesMax(config);
  out.header_timeout = config.header_timeout;
  out.body_idle_timeout = config.body_idle_timeout;
  out.body_timeout = config.body_timeout;
  out.idle_timeout = config.idle_timeout;
  out.write_timeout = config.write_timeout;
  out.requests_per_connection_max = config.requests_per_connection_max;
  out.cors_origins = config.cors_origins;
  return out;
}

// With the limits of the HTTP door.
InferenceServer::Options GrpcOptionsOf(const RouterConfig& config, std::shared_ptr<net::TlsIdentity> tls) {
  InferenceServer::Options out;
  out.tls = std::move(tls);
  out.listen = config.grpc_listen;
  out.reflection = config.grpc_reflection;
  out.keep_alive_interval = config.keep_alive_interval;
  out.body_bytes_max = config.body_bytes_max;
  out.calls_per_connection_max = config.connections_per_address_max;
  out.memory_bytes_max = config.bodies_bytes_max;
  out.write_timeout = config.write_timeout;
  return out;
}

// Keys of prompts that came before the model was known, made where prompts are prepared.
class PoolKeyMaker final : public KeyMaker {
 public:
  explicit PoolKeyMaker(RequestCore& core) : core_(core) {}
  bool Make(Order order, std::function<void(PromptKeys)> done) override {
    const auto keys = std::make_shared<PromptKeys>();
    const uint64_t n_bytes = order.prompt->size() * sizeof(uint32_t);
    return core_.RunOnPool({"", n_bytes, [keys, order = std::move(order)] { *keys = order.Make(); },
                            [keys, done = std::move(done)] { done(std::move(*keys)); }});
  }

 private:
  RequestCore& core_;
};

}  // namespace

class RouterService::Impl {
  // Serves; finishes what runs; has broken it off, and its workers park it; stores what no worker has parked; is done.
  enum class Phase : uint8_t { kServing, kDraining, kParking, kStoring, kOver };

 public:
  Impl(const RouterConfig& config, Clock& clock, KeyRing keys, ServedModel model)
      : config_(config),
        clock_(clock),
        keys_(std::move(keys)),
        model_(std::move(model)),
        metrics_registry_("longshelf-router"),
        metrics_(metrics_registry_),
        guard_(loop_.get_executor()),
        tick_timer_(loop_) {}

  ~Impl() { Stop(); }

  absl::Status Start(const MakeLinks& make_links) {
    ASSIGN_OR_RETURN(tls_, net::TlsIdentity::Load(config_.tls, clock_, &metrics_registry_));
    ASSIGN_OR_RETURN(public_tls_, net::TlsIdentity::Load(config_.public_tls, clock_,
                                                         {.name = "public", .metrics = &metrics_registry_}));
    dispatcher_ = std::make_unique<Dispatcher>(DispatcherConfigOf(config_), clock_, metrics_,
                                               make_links ? make_links(loop_) : DefaultLinks());
    RETURN_IF_ERROR(ConnectStores());
    sessions_ = std::make_unique<Sessions>(
        Sessions::Options{.tenant_secret = config_.tenant_secret, .busy_bytes_max = config_.session_bytes_max}, model_,
        clock_, *dispatcher_, session_store_.get(), namespaces_.get());
    core_ = std::make_unique<RequestCore>(RequestCoreConfig{.tenant_secret = config_.tenant_secret,
                                                            .n_prepare_threads = config_.n_prepare_threads,
                                                            .preparing_bytes_max = PreparingBytesMax(config_),
                                                            .turns_bytes_max = config_.turns_bytes_max},
                                          model_, clock_, metrics_, *dispatcher_, *sessions_, namespaces_.get(), loop_);
    if (!config_.audit_log.empty()) {
      ASSIGN_OR_RETURN(audit_log_,
                       AuditLog::Open(config_.audit_log, [this](uint64_t n) { metrics_.AuditLinesDropped(n); }));
      core_->set_audit_log(audit_log_.get());
    }
    dispatcher_->set_tenant_limits([this](const std::string& tenant) {
      return TenantLimits{.n_tokens_queued_max = keys_.n_tokens_queued_max(tenant)};
    });
    key_maker_ = std::make_unique<PoolKeyMaker>(*core_);
    dispatcher_->set_key_maker(key_maker_.get());
    HttpApiConfig api;
    api.keep_alive_interval = config_.keep_alive_interval;
    // What cannot be placed at all is refused before that.
    api.whole_silence_max = config_.queue_timeout + config_.keep_alive_interval;
    api_ = std::make_unique<HttpApi>(api, keys_, *core_);
    ASSIGN_OR_RETURN(http_, HttpServer::Start(HttpServerConfigOf(config_, public_tls_), loop_, *api_, metrics_));
    if (!config_.grpc_listen.empty()) {
      ASSIGN_OR_RETURN(inference_, InferenceServer::Start(GrpcOptionsOf(config_, public_tls_), keys_, *core_, loop_));
    }
    AdminCallbacks callbacks;
    callbacks.live = [this] { return IsAlive(); };
    callbacks.ready = [this] { return ReadinessNow(); };
    callbacks.metrics = [this] { return metrics_registry_.Serialize(); };
    AdminOptions admin = config_.admin;
    admin.tls = tls_;
    ASSIGN_OR_RETURN(admin_, AdminServer::Start(std::move(admin), std::move(callbacks)));
    http_port_ = http_->port();
    asio::post(loop_, [this] {
      dispatcher_->Start();
      Tick();
    });
    thread_ = std::thread([this] { loop_.run(); });
    return absl::OkStatus();
  }

  void BeginDrain(std::function<void()> on_drained) {
    asio::post(loop_, [this, on_drained = std::move(on_drained)]() mutable {
      spdlog::info("draining: {} requests are being answered", core_->n_running());
      on_over_ = std::move(on_drained);
      draining_ = true;
      core_->BeginDrain();
      http_->BeginDrain();
      Enter(Phase::kDraining, config_.drain_timeout);
    });
  }

  uint16_t http_port() const { return http_port_; }
  uint16_t grpc_port() const { return inference_ ? static_cast<uint16_t>(inference_->port()) : 0; }
  uint16_t admin_port() const { return admin_->port(); }
  std::string MetricsText() const { return metrics_registry_.Serialize(); }

  bool IsAlive() const { return clock_.Now() - absl::FromUnixNanos(last_tick_ns_) < kLoopIsAliveWithin; }
  Readiness ReadinessNow() const {
    if (draining_) return {false, "draining"};
    if (!has_namespaces_) return {false, "reading from the KV stores which namespaces were deleted"};
    const size_t n = n_workers_ready_;
    return {n > 0, absl::StrCat(n, " of ", config_.workers.size(), " workers ready")};
  }

 private:
  std::vector<std::unique_ptr<WorkerLink>> DefaultLinks() {
    WorkerClientConfig client;
    client.token = config_.internal_token;
    client.tls = tls_;
    std::vector<std::unique_ptr<WorkerLink>> links;
    for (const std::string& address : config_.workers) links.push_back(MakeWorkerClient(client, address, loop_));
    return links;
  }

  absl::Status ConnectStores() {
    if (config_.kvstores.empty()) return absl::OkStatus();
    kvstore::ClusterOptions options;
    options.stores = absl::StrJoin(config_.kvstores, ",");
    options.token = config_.internal_token;
    options.tls = tls_;
    ASSIGN_OR_RETURN(kvstore_, kvstore::MakeClusterClient(options, clock_, &metrics_registry_));
    const auto post = [this](std::function<void()> task) { asio::post(loop_, std::move(task)); };
    session_store_ = std::make_unique<SessionStore>(*kvstore_, config_.tenant_secret, post);
    namespaces_ = std::make_unique<Namespaces>(*kvstore_, config_.tenant_secret, clock_, post);
    return absl::OkStatus();
  }

  void Tick() {
    last_tick_ns_ = absl::ToUnixNanos(clock_.Now());
    dispatcher_->Tick();
    if (namespaces_) namespaces_->Tick();
    sessions_->Tick();
    api_->Tick();
    if (inference_) inference_->Tick();
    n_workers_ready_ = dispatcher_->n_ready();
    has_namespaces_ = core_->has_namespaces();
    metrics_.NamespacesRead(namespaces_ == nullptr || namespaces_->has_read());
    const bool serving = core_->ready();
    if (inference_ && serving_ != serving) inference_->SetServing(serving);
    serving_ = serving;
    TickEnd();
    tick_timer_.expires_after(kTick);
    tick_timer_.async_wait([this](boost::system::error_code error) {
      if (!error && !stopping_) Tick();
    });
  }

  void Enter(Phase phase, absl::Duration at_most) {
    phase_ = phase;
    phase_ends_at_ = clock_.Now() + at_most;
  }

  void TickEnd() {
    if (phase_ == Phase::kServing || phase_ == Phase::kOver) return;
    if (core_->n_running() == 0 && http_->n_connections() == 0 && sessions_->n_parking() == 0) return SayOver();
    if (clock_.Now() < phase_ends_at_) return;
    if (phase_ == Phase::kDraining) return CutOff();
    if (phase_ == Phase::kStoring) return SayOver();
    sessions_->LeaveWorkers();
    Enter(Phase::kStoring, kStoreAtMost);
  }

  void CutOff() {
    if (core_->n_running() > 0) spdlog::warn("{} requests are broken off", core_->n_running());
    draining_ = true;
    core_->BeginDrain();
    http_->CloseAll();
    if (inference_) inference_->CutOff();
    Enter(Phase::kParking, kParkAtMost);
    TickEnd();
  }

  void SayOver() {
    phase_ = Phase::kOver;
    if (on_over_) std::exchange(on_over_, nullptr)();
  }

  // Everything that was started tells the loop of its end; the loop ends when the last one did.
  void Stop() {
    admin_.reset();
    if (!thread_.joinable()) return;
    const auto over = std::make_shared<std::promise<void>>();
    asio::post(loop_, [this, over] {
      on_over_ = [over] { over->set_value(); };
      phase_ == Phase::kServing ? CutOff() : SayOver();
    });
    over->get_future().wait();
    asio::post(loop_, [this] {
      http_->CloseAll();
      sessions_->Stop();
    });
    if (inference_) inference_->Shutdown(kGrpcGrace);
    asio::post(loop_, [this] {
      stopping_ = true;
      tick_timer_.cancel();
      dispatcher_->Stop();
      guard_.reset();
    });
    thread_.join();
  }

  const RouterConfig config_;
  Clock& clock_;
  const KeyRing keys_;
  const ServedModel model_;
  longshelf::Metrics metrics_registry_;
  RouterMetrics metrics_;
  std::shared_ptr<net::TlsIdentity> tls_;
  std::shared_ptr<net::TlsIdentity> public_tls_;
  asio::io_context loop_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  asio::steady_timer tick_timer_;
  std::unique_ptr<AuditLog> audit_log_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<kvstore::Client> kvstore_;
  std::unique_ptr<SessionStore> session_store_;
  std::unique_ptr<Namespaces> namespaces_;
  std::unique_ptr<Sessions> sessions_;
  std::unique_ptr<RequestCore> core_;
  std::unique_ptr<PoolKeyMaker> key_maker_;
  std::unique_ptr<HttpApi> api_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<InferenceServer> inference_;
  std::unique_ptr<AdminServer> admin_;
  Phase phase_ = Phase::kServing;
  absl::Time phase_ends_at_;
  std::function<void()> on_over_;
  bool serving_ = false;
  bool stopping_ = false;
  uint16_t http_port_ = 0;
  // Read by the admin server's thread.
  std::atomic<int64_t> last_tick_ns_{0};
  std::atomic<size_t> n_workers_ready_{0};
  std::atomic<bool> has_namespaces_{false};
  std::atomic<bool> draining_{false};
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<RouterService>> RouterService::Start(const RouterConfig& config, Clock& clock,
                                                                    const MakeLinks& make_links) {
  const bool has_keys = !config.api_keys_file.empty();
  const bool asks_clients = has_keys || !config.public_tls.authority.empty();
  RETURN_IF_ERROR(CheckPublicAddress(config.listen, "listen", asks_clients, config.insecure_public));
  // Without TLS a proxy may stand before HTTP; before gRPC nothing does, and keys would travel in the clear.
  RETURN_IF_ERROR(CheckPublicAddress(config.grpc_listen, "grpc-listen", asks_clients && !config.public_tls.empty(),
                                     config.insecure_public));
  KeyRing keys = KeyRing::Anonymous();
  if (has_keys) {
    ASSIGN_OR_RETURN(keys, KeyRing::Load(config.api_keys_file));
  }
  const auto dialect = config.chat_dialect == "0731" ? tokenizer::ChatDialect::k0731 : tokenizer::ChatDialect::kPreview;
  ASSIGN_OR_RETURN(ServedModel model, ServedModel::Load(config.model_dir, config.model_name, dialect));
  model.control_tokens_in_text = config.control_tokens_in_text == "tokens";
  auto impl = std::make_unique<Impl>(config, clock, std::move(keys), std::move(model));
  RETURN_IF_ERROR(impl->Start(make_links));
  spdlog::info("router serves on http port {}, grpc port {}, admin port {}", impl->http_port(), impl->grpc_port(),
               impl->admin_port());
  return std::make_unique<RouterService>(std::move(impl));
}

RouterService::RouterService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RouterService::~RouterService() = default;
uint16_t RouterService::http_port() const { return impl_->http_port(); }
uint16_t RouterService::grpc_port() const { return impl_->grpc_port(); }
uint16_t RouterService::admin_port() const { return impl_->admin_port(); }
bool RouterService::live() const { return impl_->IsAlive(); }
Readiness RouterService::readiness() const { return impl_->ReadinessNow(); }
std::string RouterService::Metrics() const { return impl_->MetricsText(); }
void RouterService::BeginDrain(std::function<void()> on_drained) { impl_->BeginDrain(std::move(on_drained)); }

int ExitCodeOf(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ? kExitUnavailable : kExitConfig;
}

}  // namespace longshelf::router
