#include "host_service.h"

#include <spdlog/spdlog.h>

#include <chrono>
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

// One call. Lives until gRPC is done with it.
class RunCall final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<RunCall> {
 public:
  explicit RunCall(HostKeeper& keeper) : keeper_(keeper) {}
  static grpc::ServerUnaryReactor* Begin(HostKeeper& keeper, absl::StatusOr<HostRun> run, v1::HostRunReply* reply) {
    auto call = std::make_shared<RunCall>(keeper);
    call->self_ = call;
    if (!run.ok()) {
      call->Finish(proto::ToGrpc(run.status()));
      return call.get();
    }
    run->ended = [call, reply](const std::string& reason, const std::vector<engine::RankError>& errors) {
      FillReply(reason, errors, reply);
      call->Finish(grpc::Status::OK);
    };
    call->Keep(keeper.Submit(*std::move(run)));
    return call.get();
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

  HostKeeper& keeper_;
  std::shared_ptr<RunCall> self_;  // until OnDone
  // Guards what follows: a call may be cancelled while it is being handed to the keeper.
  std::mutex mutex_;
  uint64_t ticket_ = 0;
  bool cancelled_ = false;
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

void FillReply(const std::string& reason, const std::vector<engine::RankError>& errors, v1::HostRunReply* reply) {
  reply->set_reason(reason);
  for (const engine::RankError& error : errors) {
    auto* out = reply->add_errors();
    out->set_rank(error.rank);
    out->set_reason(error.reason);
  }
}

grpc::ServerUnaryReactor* HostService::Run(grpc::CallbackServerContext* context, const v1::HostRunRequest* request,
                                           v1::HostRunReply* reply) {
  if (const grpc::Status status = callers_.Check(*context); !status.ok()) {
    if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
      spdlog::warn("a call without the shared token was refused");
    }
    return RunCall::Begin(keeper_, proto::FromGrpc(status), reply);
  }
  return RunCall::Begin(keeper_, ReadRunRequest(*request), reply);
}

absl::StatusOr<std::unique_ptr<HostServer>> HostServer::Start(const HostServerOptions& options, HostKeeper& keeper) {
  RETURN_IF_ERROR(proto::CheckListenAddress(options.listen, !options.token.empty() || options.tls != nullptr,
                                            options.insecure_internal));
  ASSIGN_OR_RETURN(proto::CallerRules callers,
                   proto::CallerRules::Make(options.token, options.tls != nullptr, net::kCallersOfHost));
  auto service = std::make_unique<HostService>(keeper, std::move(callers));
  auto server = std::unique_ptr<HostServer>(new HostServer(std::move(service), options.tls));
  grpc::ServerBuilder builder;
  proto::ApplyInternalServerSettings(builder,
                                     {.timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(options.silence))});
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
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
