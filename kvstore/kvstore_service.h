#pragma once

#include <grpcpp/support/server_callback.h>

#include "edge_service.h"
#include "longshelf/v1/kvstore.grpc.pb.h"

namespace longshelf::kvstore {

// Raw where frames carry payloads, which are copied once; the rest as CallbackService has it.
template <typename Base>
using PutAndGetRaw = v1::KvStore::WithRawCallbackMethod_Put<v1::KvStore::WithRawCallbackMethod_Get<Base>>;
template <typename Base>
using OthersParsed =
    v1::KvStore::WithCallbackMethod_Lookup<v1::KvStore::WithCallbackMethod_Touch<v1::KvStore::WithCallbackMethod_Drop<
        v1::KvStore::WithCallbackMethod_List<v1::KvStore::WithCallbackMethod_Stats<Base>>>>>;

// kvstore.proto on the callback API.
class KvStoreService final : public PutAndGetRaw<OthersParsed<v1::KvStore::Service>> {
 public:
  explicit KvStoreService(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context, const v1::LookupRequest* request,
                                   v1::LookupReply* reply) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Put(grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Touch(grpc::CallbackServerContext* context, const v1::TouchRequest* request,
                                  v1::TouchReply* reply) override;
  grpc::ServerUnaryReactor* Drop(grpc::CallbackServerContext* context, const v1::DropRequest* request,
                                 v1::DropReply* reply) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                 v1::ListReply* reply) override;
  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* context, const v1::StatsRequest* request,
                                  v1::StatsReply* reply) override;

 private:
  Edge& edge_;
};

}  // namespace longshelf::kvstore
