#include "worker/worker_service.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/model/kv_layout.h"
#include "engine/model/model.h"
#include "generate_service.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/grpc_status.h"
#include "service_core.h"
#include "watch_service.h"

namespace longshelf::worker {

WorkerService::WorkerService(WorkerServiceOptions options, Clock& clock, Mailbox<engine::EngineMessage>& engine_inbox,
                             WatchHub& hub, WorkerMetrics& metrics, PrefixSource* prefixes)
    : core_(std::make_unique<ServiceCore>(std::move(options), clock, engine_inbox, hub, metrics, prefixes)) {
  hub.set_on_change([core = core_.get()] { core->pump.WakeTicked(); });
}

WorkerService::~WorkerService() { core_->hub.set_on_change(nullptr); }

void WorkerService::SetReady(bool ready) { core_->ready.store(ready); }
size_t WorkerService::n_streams() const { return core_->n_streams.load(); }

void WorkerService::Drain(std::function<void()> on_drained) {
  if (on_drained) {
    std::lock_guard lock(core_->drain_mutex);
    core_->on_drained = std::move(on_drained);
  }
  if (!core_->draining.exchange(true)) {
    engine::EngineMessage message = engine::DrainRequest{};
    // New calls are refused here in any case.
    core_->engine_inbox.Post(std::move(message));
  }
  if (core_->n_streams.load() == 0) core_->CallOnDrained();
}

bool WorkerService::BreakOff(const std::string& words, absl::Duration limit) {
  return core_->calls.BreakOff(absl::UnavailableError(proto::kGroupFailed + words), limit);
}

grpc::ServerWriteReactor<v1::WorkerGenerateEvent>* WorkerService::Generate(grpc::CallbackServerContext* context,
                                                                           const v1::WorkerGenerateRequest* request) {
  return GenerateStream::Start(*core_, *context, *request);
}

grpc::ServerWriteReactor<v1::WatchEvent>* WorkerService::Watch(grpc::CallbackServerContext* context,
                                                               const v1::WatchRequest*) {
  return WatchStream::Start(*core_, *context);
}

grpc::ServerUnaryReactor* WorkerService::Park(grpc::CallbackServerContext* context, const v1::ParkRequest* request,
                                              v1::ParkReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (const grpc::Status allowed = core_->Authorize(*context); !allowed.ok()) {
    reactor->Finish(allowed);
    return reactor;
  }
  auto command = ToParkCommand(*request, core_->limits, core_->clock.WallNow());
  if (!command.ok()) {
    reactor->Finish(proto::ToGrpc(command.status()));
    return reactor;
  }
  if (core_->prefixes == nullptr) {
    reactor->Finish(
        proto::ToGrpc(absl::UnavailableError("this worker has no KV store to park in; start it with --kvstore")));
    return reactor;
  }
  // Here, on the caller's thread, as for a request.
  command->prefix_keys = engine::FullBlockKeys(core_->hasher, command->namespace_salt, command->tokens, {});
  const absl::Duration left = absl::FromChrono(context->deadline()) - absl::Now();
  if (left < command->timeout) command->timeout = left;
  core_->prefixes->Park(std::move(command).value(), [reactor, reply](absl::StatusOr<ParkOutcome> outcome) {
    if (!outcome.ok()) {
      reactor->Finish(proto::ToGrpc(outcome.status()));
      return;
    }
    reply->set_n_tokens(static_cast<uint32_t>(outcome->n_tokens));
    reply->set_n_objects(outcome->n_objects);
    reply->set_n_bytes(outcome->n_bytes);
    reply->set_checkpoint_key(outcome->checkpoint_key.data(), outcome->checkpoint_key.size());
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::Drain(grpc::CallbackServerContext* context, const v1::DrainRequest*,
                                               v1::DrainReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const grpc::Status allowed = core_->Authorize(*context);
  if (allowed.ok()) {
    Drain(nullptr);
    reply->set_n_running(static_cast<uint32_t>(n_streams()));
  }
  reactor->Finish(allowed);
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::Status(grpc::CallbackServerContext* context, const v1::WorkerStatusRequest*,
                                                v1::WorkerStatusReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const grpc::Status allowed = core_->Authorize(*context);
  if (allowed.ok()) {
    const WorkerServiceOptions& options = core_->options;
    reply->set_worker_id(options.worker_id);
    reply->set_model_name(options.model_name);
    reply->set_fingerprint(options.fingerprint.data(), options.fingerprint.size());
    reply->set_vocab_size(options.vocab_size);
    reply->set_block_tokens(static_cast<uint32_t>(engine::kBlockTokens));
    reply->set_n_context_max(static_cast<uint32_t>(options.n_context_max));
    reply->set_n_shards(options.n_shards);
    reply->set_generation(options.generation);
    reply->set_kernel_isa(options.kernel_isa);
    reply->set_numerics(options.numerics);
    reply->set_numerics_revision(engine::kNumericsRevision);
    *reply->mutable_load() = ToProto(core_->hub.load(), options.n_sequences_max);
    reply->mutable_load()->set_draining(core_->draining.load() || reply->load().draining());
    reply->set_ready(core_->ready.load() && !core_->draining.load());
    for (const int64_t pid : options.shard_pids) reply->add_shard_pids(pid);
    reply->set_version(options.version);
  }
  reactor->Finish(allowed);
  return reactor;
}

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(const std::string& address, WorkerService& service,
                                                                  const std::shared_ptr<net::TlsIdentity>& tls) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  if (!address.empty()) {
    builder.AddListeningPort(address, proto::ListenerCredentials(tls, net::PeerCertificate::kRequired), &port);
  }
  proto::ApplyInternalServerSettings(builder, proto::kWorkerKeepalive);
  // Two processes on one port would share its connections and confuse everybody.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || (!address.empty() && port == 0)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, "; is the port taken? Choose another with --listen"));
  }
  auto started = std::make_unique<WorkerServer>(tls, std::move(server), service, port);
  started->SetServing(false);
  return started;
}

WorkerServer::WorkerServer(std::shared_ptr<net::TlsIdentity> tls, std::unique_ptr<grpc::Server> server,
                           WorkerService& service, int port)
    : tls_(std::move(tls)), server_(std::move(server)), service_(service), port_(port) {}

WorkerServer::~WorkerServer() { Shutdown(absl::ZeroDuration()); }

void WorkerServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);
  health->SetServingStatus("longshelf.v1.Worker", serving);
  service_.SetReady(serving);
}

void WorkerServer::Shutdown(absl::Duration grace) {
  server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  server_->Wait();
}

std::shared_ptr<grpc::Channel> WorkerServer::InProcessChannel() {
  return server_->InProcessChannel(grpc::ChannelArguments());
}

}  // namespace longshelf::worker
