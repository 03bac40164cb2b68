// The gRPC side of kvstore/server.h.
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "edge_service.h"
#include "kvstore/server.h"
#include "kvstore_service.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/internal_auth.h"

namespace longshelf::kvstore {

namespace {

constexpr size_t kStreamBytes = kMaxFrameBytes + proto::kBulkLookaheadBytes;
constexpr size_t kCallsBesides = 16;  // that are no streams, at their largest

}  // namespace

struct Server::State {
  State(const ServerOptions& options, proto::CallerRules callers, Store& store, const Clock& clock, Metrics& metrics)
      : edge(options, std::move(callers), store, clock, metrics), service(edge) {}

  Edge edge;
  KvStoreService service;
  int port = 0;
  std::unique_ptr<grpc::Server> grpc_server;
};

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Store& store, const Clock& clock,
                                                      Metrics& metrics) {
  RETURN_IF_ERROR(proto::CheckListenAddress(options.listen, !options.token.empty() || options.tls != nullptr,
                                            options.insecure_internal));
  ASSIGN_OR_RETURN(proto::CallerRules callers,
                   proto::CallerRules::Make(options.token, options.tls != nullptr, net::kCallersOfKvstore));
  auto state = std::make_unique<State>(options, std::move(callers), store, clock, metrics);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  proto::ApplyInternalServerSettings(builder);
  proto::ApplyBulkSettings(builder);
  // A call whose request is not complete is not counted yet, whoever sends it: only this bounds what it costs.
  grpc::ResourceQuota quota("kvstore");
  quota.Resize((static_cast<size_t>(options.streams_max) + kCallsBesides) * kStreamBytes);
  builder.SetResourceQuota(quota);
  // Two servers on one port would each hold half of the objects.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(options.listen, proto::ListenerCredentials(options.tls, net::PeerCertificate::kRequired),
                           &state->port);
  builder.RegisterService(&state->service);
  state->grpc_server = builder.BuildAndStart();
  if (state->grpc_server == nullptr || state->port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen));
  }
  // "" is answered by default, the service by its name only from here on.
  state->grpc_server->GetHealthCheckService()->SetServingStatus(v1::KvStore::service_full_name(), true);
  return std::make_unique<Server>(std::move(state));
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

uint16_t Server::port() const { return static_cast<uint16_t>(state_->port); }

void Server::SetNotServing() { state_->grpc_server->GetHealthCheckService()->SetServingStatus(false); }

void Server::Shutdown(absl::Duration timeout) {
  state_->grpc_server->Shutdown(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                             gpr_time_from_millis(absl::ToInt64Milliseconds(timeout), GPR_TIMESPAN)));
}

}  // namespace longshelf::kvstore
