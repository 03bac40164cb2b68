#include "router/inference_service.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <deque>
#include <future>
#include <optional>
#include <set>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/ids.h"
#include "inference_convert_service.h"
#include "longshelf/v1/inference.grpc.pb.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/grpc_status.h"

namespace longshelf::router {
namespace {

namespace asio = boost::asio;

constexpr size_t kPauseAboveReplies = 256;
constexpr size_t kResumeBelowReplies = 64;
constexpr int kKeepaliveIntervalMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 20'000;

// A call that must not be silent for long.
class Ticked {
 public:
  virtual ~Ticked() = default;
  virtual void Tick(absl::Time now) = 0;
  virtual void CutOff() = 0;
};

// What the calls of the service share.
struct Shared {
  const KeyRing& keys;
  RequestCore& core;
  asio::io_context& loop;
  const absl::Duration keep_alive_interval;
  const absl::Duration write_timeout;
  std::set<Ticked*> open = {};  // calls that have not finished; loop only
};

std::string Metadata(const grpc::CallbackServerContext& context, const char* name) {
  const auto& metadata = context.client_metadata();
  const auto it = metadata.find(name);
  return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
}

// With the code that HTTP answers have, which says more than gRPC's.
grpc::Status Refusal(const ApiError& error) {
  const grpc::Status status = proto::ToGrpc(ToStatus(error));
  return error.code.empty() ? status : grpc::Status(status.error_code(), error.code + ": " + status.error_message());
}

// "ipv4:10.0.0.1:4000" and "ipv6:%5B::1%5D:4000" without their ports.
std::string AddressOf(const std::string& peer) {
  const size_t from = peer.find(':') + 1;
  const size_t to = peer.rfind(':');
  if (from == 0 || to < from) return peer;
  return absl::StrReplaceAll(peer.substr(from, to - from), {{"%5B", ""}, {"%5D", ""}});
}

// A call that a key lets in, or not. Any thread.
class Caller {
 public:
  Caller(const Shared& shared, const grpc::CallbackServerContext& context, const char* method, Scope scope)
      : core_(shared.core) {
    const auto verdict = shared.keys.Admit(Metadata(context, "authorization"), Metadata(context, "x-api-key"), scope,
                                           core_.clock().WallNow());
    record_ = {.begun_at = core_.clock().Now(), .request_id = RequestId()};
    record_.route = absl::StrCat("/longshelf.v1.Inference/", method);
    record_.client = AddressOf(context.peer());
    record_.is_grpc = true;
    if (verdict.tenant != nullptr) tenant_ = *verdict.tenant;
    record_.tenant = tenant_.name;
    if (tenant_.key != nullptr) record_.key = tenant_.key->label;
    if (!verdict.refusal.has_value()) return;
    core_.metrics().AuthFailed(verdict.refused_for);
    refusal_ = Refusal(*verdict.refusal);
    Finished(*refusal_);
  }
  // Has been counted as finished then.
  const std::optional<grpc::Status>& refusal() const { return refusal_; }
  const Tenant& tenant() const { return tenant_; }
  const std::string& request_id() const { return record_.request_id; }
  // Once, when it ends. `running` may be null.
  void Finished(const grpc::Status& status, const RunningRequest* running = nullptr) const {
    AuditRecord record = record_;
    record.status = status.error_code();
    if (running != nullptr) {
      record.n_prompt_tokens = running->n_prompt_tokens();
      record.n_output_tokens = running->n_output_tokens();
    }
    core_.Finished(std::move(record));
  }

 private:
  RequestCore& core_;
  AuditRecord record_;
  Tenant tenant_;
  std::optional<grpc::Status> refusal_;
};

template <typename Reply>
class RefusedStream final : public grpc::ServerWriteReactor<Reply> {
 public:
  explicit RefusedStream(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { self_.reset(); }
  static RefusedStream* Make(const grpc::Status& status) {
    auto stream = std::make_unique<RefusedStream>(status);
    RefusedStream* raw = stream.get();
    raw->self_ = std::move(stream);
    return raw;
  }

 private:
  std::unique_ptr<RefusedStream> self_;
};

// One streamed answer. gRPC's callbacks only post; everything else happens on the loop, one write in flight.
template <typename Request, typename Reply>
class AnswerStream final : public grpc::ServerWriteReactor<Reply>, public RequestSink, public Ticked {
 public:
  AnswerStream(Shared& shared, grpc::CallbackServerContext& context, Caller caller, Request request)
      : shared_(shared),
        context_(context),
        work_(shared.loop.get_executor()),
        caller_(std::move(caller)),
        request_(std::move(request)),
        last_write_at_(shared.core.clock().Now()) {}

  static AnswerStream* Start(Shared& shared, grpc::CallbackServerContext& context, Caller caller, Request request) {
    auto stream = std::make_shared<AnswerStream>(shared, context, std::move(caller), std::move(request));
    stream->self_ = stream;
    asio::post(shared.loop, [stream] { stream->Run(); });
    return stream.get();
  }

  void OnWriteDone(bool ok) override {
    asio::post(shared_.loop, [self = self_, ok] { self->OnWritten(ok); });
  }
  void OnCancel() override {
    asio::post(shared_.loop, [self = self_] { self->End(grpc::Status::CANCELLED, /*now=*/true); });
  }
  void OnDone() override {
    asio::post(shared_.loop, [self = std::exchange(self_, nullptr)] { self->running_.reset(); });
  }

  void Tick(absl::Time now) override {
    const absl::Duration silence = now - last_write_at_;
    if (writing_ && silence >= shared_.write_timeout) return DropSlowClient();
    if (!ended_ && silence >= shared_.keep_alive_interval) OnProgress(progress_);
  }

  void CutOff() override {
    if (!ended_) End(Refusal(Draining()), /*now=*/true);
  }

  void OnPrepared(const PreparedRequest& prepared) override {
    if (!shared_.core.sessions().HasRoomFor(prepared)) return OnError(Overloaded());
    progress_.n_total = static_cast<uint32_t>(prepared.first().tokens->size());
  }
  void OnBegun(const Usage&) override {}
  void OnProgress(const PrefillProgress& progress) override {
    progress_ = progress;
    // The next one says more than a backlog would.
    if (writing_ || !queue_.empty()) return;
    Reply reply;
    reply.mutable_progress()->set_n_done(progress.n_done);
    reply.mutable_progress()->set_n_total(progress.n_total);
    queue_.push_back(std::move(reply));
    WriteNext();
  }
  void OnDelta(uint32_t, const ChoiceDelta& delta) override {
    Reply reply;
    AddDelta(delta, reply);
    if (reply.ByteSizeLong() == 0) return;
    // What waits is merged by nobody: it is bounded by pausing the tokens behind it.
    queue_.push_back(std::move(reply));
    if (queue_.size() >= kPauseAboveReplies && !std::exchange(paused_, true)) running_->Pause();
    WriteNext();
  }
  void OnChoiceFinished(uint32_t, const ChoiceEnd& end) override { finish_reason_ = end.finish_reason; }
  void OnDone(const Usage& usage) override {
    Reply last;
    last.set_finish_reason(finish_reason_);
    *last.mutable_usage() = ToProto(usage);
    queue_.push_back(std::move(last));
    End(grpc::Status::OK, /*now=*/false);
  }
  void OnError(const ApiError& error) override { End(Refusal(error), /*now=*/false); }

 private:
  void Run() {
    if (ended_) return;
    shared_.open.insert(this);
    if constexpr (std::is_same_v<Request, v1::SessionRef>) {
      Resume();
    } else {
      const uint64_t n_bytes = request_.ByteSizeLong();
      auto parse = [request = std::move(request_), limits = shared_.core.parse_limits()] {
        return FromProto(request, limits);
      };
      running_ = shared_.core.Run(std::move(parse), caller_.tenant(), caller_.request_id(), *this, n_bytes);
    }
  }
  // Goes on with an answer that was broken off.
  void Resume() {
    if (const auto error = shared_.core.CheckStarted()) return OnError(*error);
    if (const auto error = CheckSessionId(request_.id())) return OnError(*error);
    shared_.core.sessions().LoadUnfinished(
        caller_.tenant(), request_.id(), [self = self_](std::variant<Session, ApiError> loaded) {
          if (self->ended_) return;
          if (const auto* error = std::get_if<ApiError>(&loaded)) return self->OnError(*error);
          if (std::get<Session>(loaded).is_chat != std::is_same_v<Reply, v1::ChatReply>) {
            return self->End(
                {grpc::StatusCode::FAILED_PRECONDITION, "the session was begun by the other kind of request"}, false);
          }
          auto parse = [session = std::get<Session>(std::move(loaded)), limits = self->shared_.core.parse_limits()] {
            return RequestToResume(session, std::nullopt, limits);
          };
          self->running_ =
              self->shared_.core.Run(std::move(parse), self->caller_.tenant(), self->caller_.request_id(), *self);
        });
  }
  void WriteNext() {
    if (writing_ || finished_) return;
    if (queue_.empty()) {
      if (ended_) FinishCall();
      return;
    }
    writing_ = true;
    last_write_at_ = shared_.core.clock().Now();
    current_ = std::move(queue_.front());
    queue_.pop_front();
    this->StartWrite(&current_);
  }
  void OnWritten(bool ok) {
    writing_ = false;
    if (!ok) return End(grpc::Status::CANCELLED, /*now=*/true);
    if (paused_ && queue_.size() <= kResumeBelowReplies) {
      paused_ = false;
      if (running_) running_->Resume();
    }
    WriteNext();
  }
  // Called from inside the sink's last call, or when the client is gone.
  void End(const grpc::Status& status, bool now) {
    if (!std::exchange(ended_, true)) {
      status_ = status;
      caller_.Finished(status, running_.get());
    }
    running_.reset();
    if (now) queue_.clear();
    WriteNext();
  }
  // gRPC ends the call only when its last write has; that one waits for the client.
  void DropSlowClient() {
    if (std::exchange(dropped_, true)) return;
    shared_.core.metrics().SlowClientDropped();
    context_.TryCancel();
    End(grpc::Status::CANCELLED, /*now=*/true);
  }
  void FinishCall() {
    shared_.open.erase(this);
    finished_ = true;
    this->Finish(status_);
  }

  Shared& shared_;
  grpc::CallbackServerContext& context_;                             // gRPC's, until the call has finished
  asio::executor_work_guard<asio::io_context::executor_type> work_;  // our last news finds the loop running
  const Caller caller_;
  Request request_;
  std::shared_ptr<AnswerStream> self_;  // until gRPC is done
  std::unique_ptr<RunningRequest> running_;
  std::deque<Reply> queue_;
  Reply current_;
  grpc::Status status_;
  std::string finish_reason_;
  PrefillProgress progress_;
  absl::Time last_write_at_;
  bool writing_ = false;
  bool paused_ = false;
  bool dropped_ = false;
  bool ended_ = false;
  bool finished_ = false;
};

class Service final : public v1::Inference::CallbackService {
 public:
  Service(const KeyRing& keys, RequestCore& core, asio::io_context& loop, const InferenceServer::Options& options)
      : shared_{keys, core, loop, options.keep_alive_interval, options.write_timeout} {}

  void Tick() {
    const absl::Time now = shared_.core.clock().Now();
    for (auto it = shared_.open.begin(); it != shared_.open.end();) (*it++)->Tick(now);  // it may end itself
  }

  void CutOff() {
    for (Ticked* call : std::set(shared_.open)) call->CutOff();
  }

  grpc::ServerWriteReactor<v1::GenerateReply>* Generate(grpc::CallbackServerContext* context,
                                                        const v1::GenerateRequest* request) override {
    return Answer<v1::GenerateRequest, v1::GenerateReply>(*context, *request, "Generate", Scope::kCompletions);
  }
  grpc::ServerWriteReactor<v1::ChatReply>* Chat(grpc::CallbackServerContext* context,
                                                const v1::ChatRequest* request) override {
    return Answer<v1::ChatRequest, v1::ChatReply>(*context, *request, "Chat", Scope::kChat);
  }

  grpc::ServerWriteReactor<v1::GenerateReply>* ResumeGenerate(grpc::CallbackServerContext* context,
                                                              const v1::SessionRef* request) override {
    return Answer<v1::SessionRef, v1::GenerateReply>(*context, *request, "ResumeGenerate", Scope::kSessions);
  }
  grpc::ServerWriteReactor<v1::ChatReply>* ResumeChat(grpc::CallbackServerContext* context,
                                                      const v1::SessionRef* request) override {
    return Answer<v1::SessionRef, v1::ChatReply>(*context, *request, "ResumeChat", Scope::kSessions);
  }

  grpc::ServerUnaryReactor* ParkSession(grpc::CallbackServerContext* context, const v1::ParkSessionRequest* request,
                                        v1::SessionState* reply) override {
    return OnSessions(
        *context, {shared_, *context, "ParkSession", Scope::kSessions},
        [request, reply](Sessions& sessions, const Tenant& tenant, const ParseLimits& limits, const Finish& finish) {
          const auto terms = FromProto(*request, limits);
          if (const auto* error = std::get_if<ApiError>(&terms)) return finish(Refusal(*error));
          sessions.Park(tenant, request->id(), std::get<ParkTerms>(terms), Into(reply, finish));
        });
  }
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context, const v1::SessionRef* request,
                                       v1::SessionState* reply) override {
    return OnSessions(
        *context, {shared_, *context, "GetSession", Scope::kSessions},
        [request, reply](Sessions& sessions, const Tenant& tenant, const ParseLimits&, const Finish& finish) {
          if (const auto error = CheckSessionId(request->id())) return finish(Refusal(*error));
          sessions.Find(tenant, request->id(), Into(reply, finish));
        });
  }
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context, const v1::SessionRef* request,
                                          v1::SessionState* reply) override {
    return OnSessions(
        *context, {shared_, *context, "DeleteSession", Scope::kSessions},
        [request, reply](Sessions& sessions, const Tenant& tenant, const ParseLimits&, const Finish& finish) {
          if (const auto error = CheckSessionId(request->id())) return finish(Refusal(*error));
          sessions.Delete(tenant, request->id(), Into(reply, finish));
        });
  }
  grpc::ServerUnaryReactor* DeleteCache(grpc::CallbackServerContext* context, const v1::DeleteCacheRequest* request,
                                        v1::DeleteCacheReply* reply) override {
    return OnSessions(
        *context, {shared_, *context, "DeleteCache", Scope::kCache},
        [this, request, reply](Sessions&, const Tenant& tenant, const ParseLimits&, const Finish& finish) {
          // A user's name that was lost on the way must not become an order to delete what everybody has.
          if (request->has_user_id() && request->user_id().empty()) {
            return finish(
                Refusal(InvalidField("user_id", "must not be empty: leave it out to delete the tenant's own")));
          }
          shared_.core.DeleteCache(tenant, request->user_id(),
                                   [reply, finish](const std::variant<Namespaces::Deleted, ApiError>& deleted) {
                                     if (const auto* error = std::get_if<ApiError>(&deleted))
                                       return finish(Refusal(*error));
                                     reply->set_n_stores_missed(std::get<Namespaces::Deleted>(deleted).n_stores_missed);
                                     finish(grpc::Status::OK);
                                   });
        });
  }
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context, const v1::ListSessionsRequest* request,
                                         v1::ListSessionsReply* reply) override {
    return OnSessions(
        *context, {shared_, *context, "ListSessions", Scope::kSessions},
        [request, reply](Sessions& sessions, const Tenant& tenant, const ParseLimits&, const Finish& finish) {
          constexpr uint32_t kPageDefault = 20;
          constexpr uint32_t kPageMax = 100;
          if (request->limit() > kPageMax) return finish(Refusal(InvalidField("limit", "must be at most 100")));
          sessions.List(tenant, request->after(), request->limit() == 0 ? kPageDefault : request->limit(),
                        [reply, finish](const std::variant<SessionStore::Page, ApiError>& page) {
                          if (const auto* error = std::get_if<ApiError>(&page)) return finish(Refusal(*error));
                          const auto& found = std::get<SessionStore::Page>(page);
                          for (const SessionInfo& info : found.sessions) *reply->add_sessions() = ToProto(info);
                          reply->set_next(found.next);
                          reply->set_n_unreadable(found.n_unreadable);
                          finish(grpc::Status::OK);
                        });
        });
  }

  grpc::ServerUnaryReactor* CountTokens(grpc::CallbackServerContext* context, const v1::CountTokensRequest* request,
                                        v1::CountTokensReply* reply) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const Caller caller(shared_, *context, "CountTokens", request->has_chat() ? Scope::kChat : Scope::kCompletions);
    if (caller.refusal().has_value()) {
      reactor->Finish(*caller.refusal());
      return reactor;
    }
    asio::post(shared_.loop, [this, reactor, request, reply, caller] { Count(reactor, *request, *reply, caller); });
    return reactor;
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest*,
                                       v1::ListModelsReply* reply) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const Caller caller(shared_, *context, "ListModels", Scope::kModels);
    if (caller.refusal().has_value()) {
      reactor->Finish(*caller.refusal());
      return reactor;
    }
    asio::post(shared_.loop, [this, reactor, reply, caller] {
      v1::Model& model = *reply->add_models();
      model.set_id(shared_.core.model().name);
      model.set_context_length(shared_.core.n_context_max());
      model.set_vocab_size(shared_.core.model().vocab_size);
      caller.Finished(grpc::Status::OK);
      reactor->Finish(grpc::Status::OK);
    });
    return reactor;
  }

 private:
  using Finish = std::function<void(const grpc::Status& status)>;
  using SessionCall =
      std::function<void(Sessions& sessions, const Tenant& tenant, const ParseLimits& limits, const Finish& finish)>;

  // Runs `call` on the loop, which must finish.
  grpc::ServerUnaryReactor* OnSessions(grpc::CallbackServerContext& context, const Caller& caller, SessionCall call) {
    grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
    if (caller.refusal().has_value()) {
      reactor->Finish(*caller.refusal());
      return reactor;
    }
    asio::post(shared_.loop, [this, reactor, caller, call = std::move(call)] {
      // The guard keeps the loop running until there is an answer.
      const Finish finish = [reactor, caller, guard = asio::make_work_guard(shared_.loop)](const grpc::Status& status) {
        caller.Finished(status);
        reactor->Finish(status);
      };
      if (const auto error = shared_.core.CheckStarted()) return finish(Refusal(*error));
      call(shared_.core.sessions(), caller.tenant(), shared_.core.parse_limits(), finish);
    });
    return reactor;
  }

  static Sessions::Done<SessionInfo> Into(v1::SessionState* reply, Finish finish) {
    return [reply, finish = std::move(finish)](const std::variant<SessionInfo, ApiError>& result) {
      if (const auto* error = std::get_if<ApiError>(&result)) return finish(Refusal(*error));
      *reply = ToProto(std::get<SessionInfo>(result));
      finish(grpc::Status::OK);
    };
  }

  template <typename Request, typename Reply>
  grpc::ServerWriteReactor<Reply>* Answer(grpc::CallbackServerContext& context, const Request& request,
                                          const char* method, Scope scope) {
    const Caller caller(shared_, context, method, scope);
    if (caller.refusal().has_value()) return RefusedStream<Reply>::Make(*caller.refusal());
    return AnswerStream<Request, Reply>::Start(shared_, context, caller, request);
  }

  void Count(grpc::ServerUnaryReactor* reactor, const v1::CountTokensRequest& request, v1::CountTokensReply& reply,
             const Caller& caller) {
    auto status = std::make_shared<grpc::Status>();
    const auto finish = [reactor, caller](const grpc::Status& ended) {
      caller.Finished(ended);
      reactor->Finish(ended);
    };
    RequestCore& core = shared_.core;
    const bool accepted = core.RunOnPool(
        {caller.tenant().name, request.ByteSizeLong(),
         [&core, &request, &reply, status, context = core.prepare_context(caller.tenant()),
          limits = core.parse_limits()] {
           const auto prepared = PrepareParsed(core.model(), context, FromProto(request, limits));
           if (const auto* error = std::get_if<ApiError>(&prepared)) {
             *status = Refusal(*error);
           } else {
             reply.set_n_tokens(static_cast<uint32_t>(std::get<PreparedRequest>(prepared).first().tokens->size()));
           }
         },
         [finish, status] { finish(*status); }});
    if (!accepted) finish(Refusal(Overloaded()));
  }

  Shared shared_;
};

}  // namespace

class InferenceServer::Impl {
 public:
  Impl(const Options& options, const KeyRing& keys, RequestCore& core, asio::io_context& loop)
      : tls_(options.tls), service_(keys, core, loop, options) {}

  absl::Status Listen(const Options& options) {
    grpc::EnableDefaultHealthCheckService(true);
    if (options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // Clients may be far away and busy, and wait for minutes: pings are rare, and theirs are never a flood.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveIntervalMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, static_cast<int>(options.calls_per_connection_max));
    grpc::ResourceQuota quota("inference");
    quota.Resize(options.memory_bytes_max);
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(static_cast<int>(options.body_bytes_max));
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, proto::kHandshakeTimeoutMs);
    const bool ask = options.tls != nullptr && options.tls->has_authority();
    builder.AddListeningPort(
        options.listen,
        proto::ListenerCredentials(options.tls, ask ? net::PeerCertificate::kRequired : net::PeerCertificate::kNone),
        &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) return absl::UnavailableError("cannot listen on " + options.listen);
    SetServing(false);
    return absl::OkStatus();
  }

  void SetServing(bool serving) {
    if (auto* health = server_->GetHealthCheckService()) {
      health->SetServingStatus("", serving);
      health->SetServingStatus("longshelf.v1.Inference", serving);
    }
  }
  void Shutdown(absl::Duration grace) {
    server_->Shutdown(
        std::chrono::system_clock::now() +
        std::chrono::duration_cast<std::chrono::system_clock::duration>(absl::ToChronoNanoseconds(grace)));
  }
  void Tick() { service_.Tick(); }
  void CutOff() { service_.CutOff(); }
  int port() const { return port_; }

 private:
  const std::shared_ptr<net::TlsIdentity> tls_;  // the server's
  Service service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

absl::StatusOr<std::unique_ptr<InferenceServer>> InferenceServer::Start(const Options& options, const KeyRing& keys,
                                                                        RequestCore& core, asio::io_context& loop) {
  auto impl = std::make_unique<Impl>(options, keys, core, loop);
  if (const absl::Status status = impl->Listen(options); !status.ok()) return status;
  return std::make_unique<InferenceServer>(std::move(impl));
}

InferenceServer::InferenceServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
InferenceServer::~InferenceServer() = default;
int InferenceServer::port() const { return impl_->port(); }
void InferenceServer::Tick() { impl_->Tick(); }
void InferenceServer::CutOff() { impl_->CutOff(); }
void InferenceServer::SetServing(bool serving) { impl_->SetServing(serving); }
void InferenceServer::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }

}  // namespace longshelf::router
