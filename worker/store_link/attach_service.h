#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/task_loop.h"
#include "longshelf/v1/store_link.grpc.pb.h"
#include "net/log_gate.h"
#include "proto/internal_auth.h"
#include "remote_store_service.h"

namespace longshelf::worker {

// What all links of a leader share.
struct LinkHub {
  proto::CallerRules callers;
  uint64_t generation = 0;
  std::shared_ptr<TaskLoop> loop;
  std::vector<std::unique_ptr<RemoteStore>> stores;  // of shards 1, 2, ..; used on the loop
  net::LogGate refused;
};

// One link, or what dialled in and is none. gRPC's threads post what happens; the rest is on the loop. Owns itself
// until OnDone.
class AttachStream final : public grpc::ServerBidiReactor<v1::StoreReports, v1::StoreOrders>,
                           public OrderStream,
                           public std::enable_shared_from_this<AttachStream> {
 public:
  static AttachStream* Start(LinkHub& hub, const grpc::CallbackServerContext& context);
  AttachStream(LinkHub& hub, std::string peer) : hub_(hub), loop_(hub.loop), peer_(std::move(peer)) {}

  void Write(v1::StoreOrders orders) override;
  void End(const absl::Status& status) override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  void OnRead(bool ok);
  void OnWritten(bool ok);
  absl::Status OnHello(const v1::StoreReports& first);
  void Break(const absl::Status& why);

  LinkHub& hub_;
  const std::shared_ptr<TaskLoop> loop_;
  const std::string peer_;
  std::shared_ptr<AttachStream> self_;
  v1::StoreReports reports_;      // being read
  v1::StoreOrders orders_;        // being written
  RemoteStore* store_ = nullptr;  // whose link this is
  bool has_ended_ = false;        // nothing more may be started
};

class StoreLinkService final : public v1::StoreLink::CallbackService {
 public:
  explicit StoreLinkService(LinkHub& hub) : hub_(hub) {}
  grpc::ServerBidiReactor<v1::StoreReports, v1::StoreOrders>* Attach(grpc::CallbackServerContext* context) override {
    return AttachStream::Start(hub_, *context);
  }

 private:
  LinkHub& hub_;
};

}  // namespace longshelf::worker
