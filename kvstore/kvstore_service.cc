#include "kvstore_service.h"

#include <memory>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "disk/disk_tier.h"
#include "get_service.h"
#include "kvstore/wire_service.h"
#include "proto/grpc_status.h"
#include "put_service.h"

namespace longshelf::kvstore {
namespace {

template <typename Keys>
absl::StatusOr<std::vector<ObjectKey>> KeysFromWire(const Keys& wire) {
  if (static_cast<size_t>(wire.size()) > kMaxKeysPerCall) {
    return absl::InvalidArgumentError(absl::StrCat("keys: ", wire.size(), ", at most ", kMaxKeysPerCall));
  }
  std::vector<ObjectKey> keys;
  keys.reserve(static_cast<size_t>(wire.size()));
  for (const std::string& bytes : wire) {
    ASSIGN_OR_RETURN(const PlacedKey placed, PlacedKeyFromWire(bytes));
    keys.push_back(placed.key);  // where it belongs is for those to know who look for it
  }
  return keys;
}

absl::Status CheckNamespace(const std::string& namespace_id) {
  if (namespace_id.size() <= kMaxNamespaceBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("namespace_id: ", namespace_id.size(), " bytes, at most ", kMaxNamespaceBytes));
}

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(proto::ToGrpc(status));
  return reactor;
}

absl::Status DoLookup(Edge& edge, const v1::LookupRequest& request, v1::LookupReply* reply) {
  ASSIGN_OR_RETURN(const LookupQuery query, QueryFromWire(request));
  ASSIGN_OR_RETURN(const LookupResult result, edge.store.Lookup(query));
  edge.counters.lookups.Increment();
  edge.counters.lookup_keys_present.Increment(result.n_present);
  edge.counters.lookup_keys_absent.Increment(static_cast<double>(query.chain.size() - result.n_present));
  ResultToWire(result, reply);
  return absl::OkStatus();
}

// Finishes the reactor, now or when the disk has answered, unless this fails.
absl::Status DoTouch(Edge& edge, const v1::TouchRequest& request, v1::TouchReply* reply,
                     grpc::ServerUnaryReactor* reactor) {
  ASSIGN_OR_RETURN(const std::vector<ObjectKey> keys, KeysFromWire(request.keys()));
  ASSIGN_OR_RETURN(const absl::Time retain_until, RetentionFromWire(request.retain_until_unix_ms()));
  const auto finish = [reply, reactor](const TouchResult& result) {
    TouchToWire(result, reply);
    reactor->Finish(grpc::Status::OK);
  };
  const absl::Time now = edge.clock.WallNow();
  if (request.durable()) {
    edge.store.Touch(keys, retain_until, now, finish);
  } else {
    finish(edge.store.Touch(keys, retain_until, now));
  }
  return absl::OkStatus();
}

absl::Status DoList(Edge& edge, const v1::ListRequest& request, v1::ListReply* reply) {
  ASSIGN_OR_RETURN(const ListQuery query, ListQueryFromWire(request));
  ASSIGN_OR_RETURN(const ListResult result, edge.store.List(query));
  ListToWire(result, reply);
  return absl::OkStatus();
}

// Finishes the reactor of a Drop when all is dropped and the disk has written that down, or cannot.
class DropCall : public std::enable_shared_from_this<DropCall> {
 public:
  explicit DropCall(grpc::ServerUnaryReactor* reactor) : reactor_(reactor) {}

  // One more answer is to come.
  Store::Durable Await() {
    std::lock_guard lock(mutex_);
    ++n_awaited_;
    return [self = shared_from_this()](const absl::Status& status) { self->AnswerOne(status); };
  }
  void AnswerOne(const absl::Status& status) {
    {
      std::lock_guard lock(mutex_);
      first_.Update(status);
      if (--n_awaited_ > 0) return;
    }
    reactor_->Finish(proto::ToGrpc(first_));
  }

 private:
  grpc::ServerUnaryReactor* const reactor_;
  std::mutex mutex_;      // guards what is below; the disk answers on a thread of its own
  size_t n_awaited_ = 1;  // and the call itself
  absl::Status first_;
};

// Finishes the reactor, unless this fails.
absl::Status DoDrop(Edge& edge, const v1::DropRequest& request, v1::DropReply* reply,
                    grpc::ServerUnaryReactor* reactor) {
  ASSIGN_OR_RETURN(const std::vector<ObjectKey> keys, KeysFromWire(request.keys()));
  RETURN_IF_ERROR(CheckNamespace(request.namespace_id()));
  if (request.retire() && (request.before_generation() == 0 || request.namespace_id().empty())) {
    return absl::InvalidArgumentError("retire: needs namespace_id and before_generation");
  }
  const auto call = std::make_shared<DropCall>(reactor);
  const absl::Time now = edge.clock.WallNow();
  DropResult result = request.keep_parked() ? edge.store.DropCache(keys, now) : edge.store.Drop(keys, call->Await());
  if (!request.namespace_id().empty()) {
    const NamespaceDrop drop{request.namespace_id(), request.before_generation(), request.retire()};
    const DropResult whole = drop.before_generation == 0 ? edge.store.DropNamespace(drop.id, call->Await())
                                                         : edge.store.DropGenerations(drop, now, call->Await());
    result.n_dropped += whole.n_dropped;
    result.bytes_dropped += whole.bytes_dropped;
  }
  reply->set_n_dropped(result.n_dropped);
  reply->set_bytes_dropped(result.bytes_dropped);
  call->AnswerOne(absl::OkStatus());
  return absl::OkStatus();
}

absl::Status DoStats(Edge& edge, const v1::StatsRequest& request, v1::StatsReply* reply) {
  RETURN_IF_ERROR(CheckNamespace(request.namespace_id()));
  const absl::Time now = edge.clock.WallNow();
  const bool is_of_all = request.namespace_id().empty();
  StoreStats stats = is_of_all ? edge.store.Stats(now) : edge.store.StatsOf(request.namespace_id(), now);
  // To whoever looks after the replicas it is one whether memory or the disk had the damage.
  const std::unique_ptr<disk::DiskStats> on_disk = is_of_all ? edge.store.StatsOfDisk() : nullptr;
  if (on_disk != nullptr) stats.n_quarantined += on_disk->n_quarantined;
  StatsToWire(stats, reply);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* KvStoreService::Lookup(grpc::CallbackServerContext* context, const v1::LookupRequest* request,
                                                 v1::LookupReply* reply) {
  const absl::Status caller = edge_.CheckCaller(*context);
  return Answer(context, caller.ok() ? DoLookup(edge_, *request, reply) : caller);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* KvStoreService::Put(grpc::CallbackServerContext* context) {
  return PutStream::Start(edge_, *context);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* KvStoreService::Get(grpc::CallbackServerContext* context,
                                                                const grpc::ByteBuffer* request) {
  return GetStream::Start(edge_, *context, *request);
}

grpc::ServerUnaryReactor* KvStoreService::Touch(grpc::CallbackServerContext* context, const v1::TouchRequest* request,
                                                v1::TouchReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::Status status = edge_.CheckCaller(*context);
  if (status.ok()) status = DoTouch(edge_, *request, reply, reactor);
  if (!status.ok()) reactor->Finish(proto::ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* KvStoreService::List(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                               v1::ListReply* reply) {
  const absl::Status caller = edge_.CheckCaller(*context);
  return Answer(context, caller.ok() ? DoList(edge_, *request, reply) : caller);
}

grpc::ServerUnaryReactor* KvStoreService::Drop(grpc::CallbackServerContext* context, const v1::DropRequest* request,
                                               v1::DropReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::Status status = edge_.CheckCaller(*context);
  if (status.ok()) status = DoDrop(edge_, *request, reply, reactor);
  if (!status.ok()) reactor->Finish(proto::ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* KvStoreService::Stats(grpc::CallbackServerContext* context, const v1::StatsRequest* request,
                                                v1::StatsReply* reply) {
  const absl::Status caller = edge_.CheckCaller(*context);
  return Answer(context, caller.ok() ? DoStats(edge_, *request, reply) : caller);
}

}  // namespace longshelf::kvstore
