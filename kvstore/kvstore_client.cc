// The gRPC side of kvstore/client.h.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "call_registry.h"
#include "common/status.h"
#include "get_client.h"
#include "kvstore/client.h"
#include "kvstore/wire_service.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/grpc_status.h"
#include "proto/internal_auth.h"
#include "put_client.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Duration kLongestTimeout = absl::Minutes(10);
// A dead node is given up after this and asked again at most this often.
constexpr int kConnectTimeoutMs = 1000;

absl::Status CheckCount(size_t n) {
  if (n <= kMaxKeysPerCall) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(n, " objects in one call, at most ", kMaxKeysPerCall));
}

gpr_timespec DeadlineIn(absl::Duration timeout) {
  const absl::Duration bounded = std::clamp(timeout, absl::ZeroDuration(), kLongestTimeout);
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_micros(absl::ToInt64Microseconds(bounded), GPR_TIMESPAN));
}

std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options) {
  grpc::ChannelArguments args = proto::InternalChannelArguments();
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  proto::ApplyBulkSettings(args);
  proto::ExpectServerName(args, options.tls_name);
  return grpc::CreateCustomChannel(options.address, proto::ChannelCredentials(options.tls, net::Role::kKvstore), args);
}

// What a caller holds of a call: the call itself goes away when it has ended, whatever its caller keeps.
class GetHandle final : public Client::GetCall {
 public:
  explicit GetHandle(std::weak_ptr<GetCallReactor> call) : call_(std::move(call)) {}
  void Release(uint64_t n_bytes) override {
    if (const auto call = call_.lock()) call->Release(n_bytes);
  }
  void Cancel() override {
    if (const auto call = call_.lock()) call->Cancel();
  }

 private:
  const std::weak_ptr<GetCallReactor> call_;
};

class PutHandle final : public Client::PutCall {
 public:
  explicit PutHandle(std::weak_ptr<PutCallReactor> call) : call_(std::move(call)) {}
  void Offer(PutItem item) override {
    if (const auto call = call_.lock()) call->Offer(std::move(item));
  }
  void Finish() override {
    if (const auto call = call_.lock()) call->FinishOffers();
  }
  void Cancel() override {
    if (const auto call = call_.lock()) call->Cancel();
  }

 private:
  const std::weak_ptr<PutCallReactor> call_;
};

template <typename Request, typename Reply>
struct UnaryCall final : RunningCall {
  void Cancel() override {
    std::lock_guard lock(mutex);
    if (context.has_value()) context->TryCancel();
  }
  void End() {
    std::lock_guard lock(mutex);
    context.reset();
  }

  std::mutex mutex;  // guards the end of `context` against Cancel
  // Gone before the registry forgets the call, as in the other calls.
  std::optional<grpc::ClientContext> context{std::in_place};
  Request request;
  Reply reply;
};

class GrpcClient final : public Client {
 public:
  explicit GrpcClient(const ClientOptions& options)
      : token_(options.token),
        tls_(options.tls),
        calls_(std::make_shared<CallRegistry>()),
        channel_(MakeChannel(options)),
        stub_(v1::KvStore::NewStub(channel_)),
        get_stub_(channel_),
        put_stub_(channel_) {}
  ~GrpcClient() override { calls_->Close(); }

  void Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) override {
    v1::LookupRequest request;
    QueryToWire(query, &request);
    const auto convert = [n_asked = query.chain.size()](const v1::LookupReply& reply) -> absl::StatusOr<LookupResult> {
      if (reply.n_present() > n_asked) return absl::InternalError("the store found more than was asked for");
      return ResultFromWire(reply);
    };
    CallUnary<LookupResult>(&AsyncStub::Lookup, std::move(request), timeout, std::move(done), convert);
  }

  std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) override {
    const gpr_timespec deadline = DeadlineIn(request.timeout);
    absl::Status status = CheckCount(request.items.size());
    const auto call = std::make_shared<GetCallReactor>(calls_, std::move(request), std::move(events));
    if (status.ok()) status = calls_->Add(call);
    if (status.ok()) {
      Prepare(call->context(), deadline);
      // On the wire a call that streams both ways and sends one message is one that streams the answers only.
      get_stub_.PrepareBidiStreamingCall(&call->context(), "/longshelf.v1.KvStore/Get", {}, call.get());
      call->Start(deadline);
    } else {
      call->Refuse(status);
    }
    return std::make_shared<GetHandle>(call);
  }

  std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) override {
    const auto call = std::make_shared<PutCallReactor>(calls_, std::move(events));
    if (const absl::Status status = calls_->Add(call); status.ok()) {
      Prepare(call->context(), DeadlineIn(timeout));
      put_stub_.PrepareBidiStreamingCall(&call->context(), "/longshelf.v1.KvStore/Put", {}, call.get());
      call->Start();
    } else {
      call->Refuse(status);
    }
    return std::make_shared<PutHandle>(call);
  }

  void Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) override {
    if (const absl::Status status = CheckCount(query.keys.size()); !status.ok()) return done(status);
    v1::TouchRequest request;
    for (const PlacedKey& placed : query.keys) request.add_keys(PlacedKeyToWire(placed.key, placed.extent));
    request.set_retain_until_unix_ms(RetentionToWire(query.retain_until));
    request.set_durable(IsDurable(query.ack));
    const auto convert = [n_keys = query.keys.size()](const v1::TouchReply& reply) {
      return TouchFromWire(reply, n_keys);
    };
    CallUnary<TouchResult>(&AsyncStub::Touch, std::move(request), timeout, std::move(done), convert);
  }

  void Drop(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override {
    DropKeys(keys, /*keep_parked=*/false, timeout, std::move(done));
  }

  void DropCache(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override {
    DropKeys(keys, /*keep_parked=*/true, timeout, std::move(done));
  }

  void DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) override {
    if (drop.id.empty()) return done(absl::InvalidArgumentError("namespace_id: empty"));
    v1::DropRequest request;
    request.set_namespace_id(std::move(drop.id));
    request.set_before_generation(drop.before_generation);
    request.set_retire(drop.retire);
    CallDrop(std::move(request), timeout, std::move(done));
  }

  void List(ListQuery query, absl::Duration timeout, Done<ListResult> done) override {
    v1::ListRequest request;
    ListQueryToWire(query, &request);
    CallUnary<ListResult>(&AsyncStub::List, std::move(request), timeout, std::move(done), ListFromWire);
  }

  void Stats(absl::Duration timeout, Done<StoreStats> done) override {
    CallUnary<StoreStats>(&AsyncStub::Stats, v1::StatsRequest(), timeout, std::move(done), StatsFromWire);
  }

 private:
  void DropKeys(const std::vector<PlacedKey>& keys, bool keep_parked, absl::Duration timeout, Done<DropResult> done) {
    if (const absl::Status status = CheckCount(keys.size()); !status.ok()) return done(status);
    v1::DropRequest request;
    for (const PlacedKey& placed : keys) request.add_keys(PlacedKeyToWire(placed.key, placed.extent));
    request.set_keep_parked(keep_parked);
    CallDrop(std::move(request), timeout, std::move(done));
  }

  using AsyncStub = v1::KvStore::StubInterface::async_interface;
  template <typename Request, typename Reply>
  using UnaryMethod = void (AsyncStub::*)(grpc::ClientContext*, const Request*, Reply*,
                                          std::function<void(grpc::Status)>);

  void Prepare(grpc::ClientContext& context, gpr_timespec deadline) const {
    context.set_deadline(deadline);
    proto::AddToken(context, token_);
  }

  // Answers with what `convert` makes of the reply.
  template <typename Result, typename Request, typename Reply, typename Convert>
  void CallUnary(UnaryMethod<Request, Reply> method, Request request, absl::Duration timeout, Done<Result> done,
                 Convert convert) {
    const auto call = std::make_shared<UnaryCall<Request, Reply>>();
    if (const absl::Status status = calls_->Add(call); !status.ok()) return done(status);
    call->request = std::move(request);
    Prepare(*call->context, DeadlineIn(timeout));
    (stub_->async()->*method)(&*call->context, &call->request, &call->reply,
                              [calls = calls_, call, done = std::move(done), convert](const grpc::Status& status) {
                                if (status.ok()) {
                                  done(convert(call->reply));
                                } else {
                                  done(proto::FromGrpc(status));
                                }
                                call->End();
                                calls->Remove(*call);
                              });
  }

  void CallDrop(v1::DropRequest request, absl::Duration timeout, Done<DropResult> done) {
    const auto convert = [](const v1::DropReply& reply) {
      return DropResult{.n_dropped = reply.n_dropped(), .bytes_dropped = reply.bytes_dropped()};
    };
    CallUnary<DropResult>(&AsyncStub::Drop, std::move(request), timeout, std::move(done), convert);
  }

  const std::string token_;
  const std::shared_ptr<net::TlsIdentity> tls_;  // the channel's
  const std::shared_ptr<CallRegistry> calls_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::KvStore::Stub> stub_;
  grpc::TemplatedGenericStub<v1::GetRequest, grpc::ByteBuffer> get_stub_;
  grpc::TemplatedGenericStub<grpc::ByteBuffer, v1::PutReplies> put_stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> MakeClient(const ClientOptions& options) {
  const size_t colon = options.address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options.address.size()) {
    return absl::InvalidArgumentError(absl::StrCat("store address ", options.address, ": must be host:port"));
  }
  if (!options.token.empty()) {
    RETURN_IF_ERROR(proto::SharedToken::FromString(options.token).status());
  }
  return std::make_unique<GrpcClient>(options);
}

}  // namespace longshelf::kvstore
