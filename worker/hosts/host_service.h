#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host_keeper.h"
#include "longshelf/v1/host.grpc.pb.h"
#include "proto/internal_auth.h"

namespace longshelf::worker {

// A run as a request asks for it, without its callbacks. INVALID_ARGUMENT names the field.
absl::StatusOr<HostRun> ReadRunRequest(const v1::HostRunRequest& request);
v1::HostRunEvent StartedEvent(int64_t pid);
v1::HostRunEvent EndedEvent(const std::string& reason, const std::vector<engine::RankError>& errors);

// host.proto over a HostKeeper, which must outlive it. Any of gRPC's threads.
class HostService final : public v1::Host::CallbackService {
 public:
  HostService(HostKeeper& keeper, std::optional<proto::SharedToken> token)
      : keeper_(keeper), token_(std::move(token)) {}
  grpc::ServerWriteReactor<v1::HostRunEvent>* Run(grpc::CallbackServerContext* context,
                                                  const v1::HostRunRequest* request) override;

 private:
  HostKeeper& keeper_;
  const std::optional<proto::SharedToken> token_;
};

struct HostServerOptions {
  std::string listen;
  std::string token;
  bool insecure_internal = false;
  absl::Duration silence = absl::Seconds(5);  // a first host that says nothing for longer is gone
};

// Serves until destroyed.
class HostServer {
 public:
  // FAILED_PRECONDITION: the address is not loopback and there is no token. UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<HostServer>> Start(const HostServerOptions& options, HostKeeper& keeper);
  ~HostServer();

 private:
  explicit HostServer(std::unique_ptr<HostService> service) : service_(std::move(service)) {}
  std::unique_ptr<HostService> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace longshelf::worker
