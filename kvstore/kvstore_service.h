#pragma once

#include <grpcpp/support/server_callback.h>

#include "edge_service.h"
#include "longshelf/v1/kvstore.grpc.pb.h"

namespace longshelf::kvstore {

// kvstore.proto on the callback API. Get is raw: its frames carry payloads that are copied once.
class KvStoreService final : public v1::KvStore::WithRawCallbackMethod_Get<v1::KvStore::CallbackService> {
 public:
  explicit KvStoreService(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context, const v1::LookupRequest* request,
                                   v1::LookupReply* reply) override;
  grpc::ServerBidiReactor<v1::PutFrame, v1::PutReply>* Put(grpc::CallbackServerContext* context) override;
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
