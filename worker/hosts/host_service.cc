#include "host_service.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "daemon_command.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/grpc_status.h"

namespace longshelf::worker {
namespace {

constexpr int kShardsMax = 64;
constexpr int kEnvironmentMax = 256;
constexpr std::chrono::seconds kShutdownGrace(5);

// One call. Lives until gRPC is done with it and the keeper has ended its run, whichever is later.
class RunStream final : public grpc::ServerWriteReactor<v1::HostRunEvent>,
                        public std::enable_shared_from_this<RunStream> {
 public:
  static grpc::ServerWriteReactor<v1::HostRunEvent>* Begin(HostKeeper& keeper, absl::StatusOr<HostRun> run) {
    auto stream = std::make_shared<RunStream>(keeper);
    stream->self_ = stream;
    if (!run.ok()) {
      stream->Finish(proto::ToGrpc(run.status()));
      return stream.get();
    }
    run->started = [stream](int64_t pid) { stream->Push(StartedEvent(pid), /*last=*/false); };
    run->ended = [stream](const std::string& reason, const std::vector<engine::RankError>& errors) {
      stream->Push(EndedEvent(reason, errors), /*last=*/true);
    };
    stream->Keep(keeper.Submit(*std::move(run)));
    return stream.get();
  }
  explicit RunStream(HostKeeper& keeper) : keeper_(keeper) {}

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    events_.pop_front();
    if (!ok) events_.clear();
    WriteNext();
  }
  void OnCancel() override {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (ticket_ != 0) keeper_.Cancel(ticket_, "the first host of the group hung up");
  }
  void OnDone() override { self_.reset(); }

 private:
  void Keep(uint64_t ticket) {
    std::lock_guard lock(mutex_);
    ticket_ = ticket;
    if (cancelled_) keeper_.Cancel(ticket_, "the first host of the group hung up");
  }
  void Push(v1::HostRunEvent event, bool last) {
    std::lock_guard lock(mutex_);
    last_ = last_ || last;
    events_.push_back(std::move(event));
    if (events_.size() == 1) WriteNext();
  }
  void WriteNext() {
    if (!events_.empty()) return StartWrite(&events_.front());
    if (last_ && !std::exchange(finished_, true)) Finish(grpc::Status::OK);
  }

  HostKeeper& keeper_;
  std::shared_ptr<RunStream> self_;  // until OnDone
  // Guards all below: the keeper's thread pushes, gRPC's write and cancel.
  std::mutex mutex_;
  std::deque<v1::HostRunEvent> events_;  // the first is being written
  uint64_t ticket_ = 0;
  bool cancelled_ = false;
  bool last_ = false;
  bool finished_ = false;
};

}  // namespace

absl::StatusOr<HostRun> ReadRunRequest(const v1::HostRunRequest& request) {
  HostRun run;
  run.generation = request.generation();
  if (request.n_shards() < 1 || request.n_shards() > kShardsMax) {
    return absl::InvalidArgumentError(absl::StrCat("n_shards is ", request.n_shards(), "; 1 to ", kShardsMax));
  }
  run.n_shards = static_cast<int>(request.n_shards());
  run.daemon_args.assign(request.daemon_args().begin(), request.daemon_args().end());
  RETURN_IF_ERROR(CheckDaemonArgs(run.daemon_args));
  if (request.daemon_port_begin() < 1 || request.daemon_port_end() > UINT16_MAX + 1 ||
      request.daemon_port_end() <= request.daemon_port_begin()) {
    return absl::InvalidArgumentError(absl::StrCat("daemon ports are [", request.daemon_port_begin(), ", ",
                                                   request.daemon_port_end(), "); within 1 to ", UINT16_MAX));
  }
  run.daemon_port_begin = static_cast<int>(request.daemon_port_begin());
  run.daemon_port_end = static_cast<int>(request.daemon_port_end());
  if (request.environment_size() > kEnvironmentMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("environment has ", request.environment_size(), " entries; at most ", kEnvironmentMax));
  }
  for (const std::string& entry : request.environment()) {
    // What decides which code a program runs is this host's business.
    if (!entry.starts_with("LONGSHELF_") && !entry.starts_with("OMPI_ALLOW_RUN_AS_ROOT")) {
      return absl::InvalidArgumentError(
          absl::StrCat("environment: ", entry.substr(0, entry.find('=')), " is not an option of longshelf"));
    }
    run.environment.push_back(entry);
  }
  return run;
}

v1::HostRunEvent StartedEvent(int64_t pid) {
  v1::HostRunEvent event;
  event.mutable_started()->set_pid(pid);
  return event;
}

v1::HostRunEvent EndedEvent(const std::string& reason, const std::vector<engine::RankError>& errors) {
  v1::HostRunEvent event;
  event.mutable_ended()->set_reason(reason);
  for (const engine::RankError& error : errors) {
    auto* out = event.mutable_ended()->add_errors();
    out->set_rank(error.rank);
    out->set_reason(error.reason);
  }
  return event;
}

grpc::ServerWriteReactor<v1::HostRunEvent>* HostService::Run(grpc::CallbackServerContext* context,
                                                             const v1::HostRunRequest* request) {
  if (const grpc::Status status = callers_.Check(*context); !status.ok()) {
    if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
      spdlog::warn("a call without the shared token was refused");
    }
    return RunStream::Begin(keeper_, proto::FromGrpc(status));
  }
  return RunStream::Begin(keeper_, ReadRunRequest(*request));
}

absl::StatusOr<std::unique_ptr<HostServer>> HostServer::Start(const HostServerOptions& options, HostKeeper& keeper) {
  RETURN_IF_ERROR(proto::CheckListenAddress(options.listen, !options.token.empty() || options.tls != nullptr,
                                            options.insecure_internal));
  ASSIGN_OR_RETURN(proto::CallerRules callers,
                   proto::CallerRules::Make(options.token, options.tls != nullptr, net::kCallersOfHost));
  auto service = std::make_unique<HostService>(keeper, std::move(callers));
  auto server = std::unique_ptr<HostServer>(new HostServer(std::move(service), options.tls));
  grpc::ServerBuilder builder;
  proto::ApplyInternalServerSettings(builder);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(options.silence)));
  builder.AddListeningPort(options.listen, proto::ListenerCredentials(options.tls, net::PeerCertificate::kRequired),
                           &server->port_);
  builder.RegisterService(server->service_.get());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || server->port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen));
  }
  spdlog::info("waits for groups on port {}", server->port_);
  return server;
}

HostServer::~HostServer() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
}

}  // namespace longshelf::worker
