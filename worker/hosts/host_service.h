#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host_keeper.h"
#include "longshelf/v1/host.grpc.pb.h"
#include "net/tls_identity.h"
#include "proto/internal_auth.h"

namespace longshelf::worker {

// A run as a request asks for it, without its callbacks. INVALID_ARGUMENT names the field.
absl::StatusOr<HostRun> ReadRunRequest(const v1::HostRunRequest& request);
void FillReply(const std::string& reason, const std::vector<engine::RankError>& errors, v1::HostRunReply* reply);

// host.proto over a HostKeeper, which must outlive it. Any of gRPC's threads.
class HostService final : public v1::Host::CallbackService {
 public:
  HostService(HostKeeper& keeper, proto::CallerRules callers) : keeper_(keeper), callers_(std::move(callers)) {}
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context, const v1::HostRunRequest* request,
                                v1::HostRunReply* reply) override;

 private:
  HostKeeper& keeper_;
  const proto::CallerRules callers_;
};

struct HostServerOptions {
  std::string listen;
  std::string token;
  std::shared_ptr<net::TlsIdentity> tls = {};  // with it, callers need the certificate of a worker or operator
  bool insecure_internal = false;
  absl::Duration silence = absl::Seconds(5);  // a first host that says nothing for longer is gone
};

// Serves until destroyed.
class HostServer {
 public:
  // FAILED_PRECONDITION: the address is not loopback and there is neither token nor TLS. UNAVAILABLE: cannot listen
  // there.
  static absl::StatusOr<std::unique_ptr<HostServer>> Start(const HostServerOptions& options, HostKeeper& keeper);
  ~HostServer();
  int port() const { return port_; }

 private:
  HostServer(std::unique_ptr<HostService> service, std::shared_ptr<net::TlsIdentity> tls)
      : tls_(std::move(tls)), service_(std::move(service)) {}
  const std::shared_ptr<net::TlsIdentity> tls_;  // the server's
  int port_ = 0;
  std::unique_ptr<HostService> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace longshelf::worker
