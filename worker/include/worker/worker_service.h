#pragma once

#include <grpcpp/server.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mailbox.h"
#include "engine/messages.h"
#include "grammar/constraint.h"
#include "longshelf/v1/worker.grpc.pb.h"
#include "net/tls_identity.h"
#include "proto/internal_auth.h"
#include "worker/metrics.h"
#include "worker/prefix_source.h"
#include "worker/watch_hub.h"

namespace longshelf::worker {

// What a worker says about itself, and what its callers may ask for.
struct WorkerServiceOptions {
  std::string worker_id;
  std::string model_name;
  std::array<uint8_t, 32> fingerprint{};
  uint32_t vocab_size = 0;
  int64_t n_context_max = 0;
  uint32_t n_shards = 1;
  uint64_t generation = 0;
  std::string kernel_isa;
  std::string numerics;
  std::string version;
  std::vector<int64_t> shard_pids;
  uint32_t n_sequences_max = 0;

  bool allow_logits = false;
  std::shared_ptr<grammar::ConstraintCache> constraints = nullptr;  // null: no output of a given form
  proto::CallerRules callers;                                       // everybody: loopback, or --insecure-internal
  size_t n_streams_max = 2048;                                      // open Generate calls
  size_t stream_buffer_bytes = 256 << 10;  // events a client has not read yet; above it the sequence is cancelled
  size_t stream_buffer_events_min = 16;    // allowed whatever their size
  absl::Duration progress_interval = absl::Milliseconds(250);  // between two PrefillProgress events of a stream
};

struct ServiceCore;

// worker.proto over one engine. Calls are answered on gRPC's threads and on one pump thread; the engine thread only
// ever appends to a buffer. Destroy it after its server was shut down and the engine has ended.
class WorkerService final : public v1::Worker::CallbackService {
 public:
  // `prefixes` may be null: a worker without a KV store. Everything must outlive the service.
  WorkerService(WorkerServiceOptions options, Clock& clock, Mailbox<engine::EngineMessage>& engine_inbox, WatchHub& hub,
                WorkerMetrics& metrics, PrefixSource* prefixes);
  ~WorkerService() override;

  // Status says so; the health service is the server's.
  void SetReady(bool ready);
  // As the Drain call: nothing new is admitted. `on_drained` (may be null) runs on some thread, perhaps more than once,
  // when no Generate call is open any more.
  void Drain(std::function<void()> on_drained);
  // The shard group has failed: calls that are open, and those that come, end with that and `words`. False: some are
  // open still at `limit`. Any thread.
  bool BreakOff(const std::string& words, absl::Duration limit);
  // Generate calls that are not over yet.
  size_t n_streams() const;

  grpc::ServerWriteReactor<v1::WorkerGenerateEvent>* Generate(grpc::CallbackServerContext* context,
                                                              const v1::WorkerGenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::WatchEvent>* Watch(grpc::CallbackServerContext* context,
                                                  const v1::WatchRequest* request) override;
  grpc::ServerUnaryReactor* Park(grpc::CallbackServerContext* context, const v1::ParkRequest* request,
                                 v1::ParkReply* reply) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainReply* reply) override;
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::WorkerStatusRequest* request,
                                   v1::WorkerStatusReply* reply) override;

 private:
  std::unique_ptr<ServiceCore> core_;
};

// The listening side: the service, health v1 and reflection on one port.
class WorkerServer {
 public:
  // UNAVAILABLE: the address cannot be bound. The listen rule (CheckListenAddress) is the caller's.
  // With `tls` callers need a certificate; of which role, the service decides.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const std::string& address, WorkerService& service,
                                                             const std::shared_ptr<net::TlsIdentity>& tls = nullptr);
  // Use Start.
  WorkerServer(std::shared_ptr<net::TlsIdentity> tls, std::unique_ptr<grpc::Server> server, WorkerService& service,
               int port);
  ~WorkerServer();
  int port() const { return port_; }
  // What the health service says; NOT_SERVING at first.
  void SetServing(bool serving);
  // Refuses new calls; open ones are cancelled after `grace`.
  void Shutdown(absl::Duration grace);
  // The server inside this process, without a socket: for tests.
  std::shared_ptr<grpc::Channel> InProcessChannel();

 private:
  const std::shared_ptr<net::TlsIdentity> tls_;  // the server's
  std::unique_ptr<grpc::Server> server_;
  WorkerService& service_;
  const int port_;
};

}  // namespace longshelf::worker
