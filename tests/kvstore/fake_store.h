#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "proto/channel_settings.h"

namespace longshelf::kvstore {

// A store that answers as a test wants. Every call runs on a thread of its own and may block. What the answers use must
// outlive the store, which waits for them.
class FakeStore final : public v1::KvStore::Service {
 public:
  using GetWriter = grpc::ServerWriter<v1::GetFrame>;
  using PutCall = grpc::ServerReaderWriter<v1::PutReplies, v1::PutFrame>;

  FakeStore() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    proto::ApplyInternalServerSettings(builder);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeStore() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  // Set before the first call.
  std::function<grpc::Status(grpc::ServerContext&, const v1::GetRequest&, GetWriter&)> on_get;
  std::function<grpc::Status(grpc::ServerContext&, PutCall&)> on_put;
  std::function<grpc::Status(grpc::ServerContext&)> on_lookup;

  grpc::Status Get(grpc::ServerContext* context, const v1::GetRequest* request, GetWriter* writer) override {
    return on_get(*context, *request, *writer);
  }
  grpc::Status Put(grpc::ServerContext* context, PutCall* stream) override { return on_put(*context, *stream); }
  grpc::Status Lookup(grpc::ServerContext* context, const v1::LookupRequest*, v1::LookupReply*) override {
    return on_lookup(*context);
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace longshelf::kvstore
