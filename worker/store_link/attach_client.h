#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "common/task_loop.h"
#include "longshelf/v1/store_link.grpc.pb.h"

namespace longshelf::worker {

// The call that a shard stays on. gRPC's threads post what happens; the rest is on the loop. Must not go before
// `on_end` was called.
class AttachCall final : public grpc::ClientBidiReactor<v1::StoreReports, v1::StoreOrders> {
 public:
  struct Events {
    // Not OK: they break the protocol, which ends the call.
    std::function<absl::Status(const v1::StoreOrders& orders)> on_orders;
    // Last.
    std::function<void(const absl::Status& status)> on_end;
  };
  AttachCall(std::shared_ptr<TaskLoop> loop, Events events) : loop_(std::move(loop)), events_(std::move(events)) {}

  void Start(v1::StoreLink::Stub& stub, std::string_view key, const v1::StoreHello& hello);
  // Leaves when what is being written is; dropped when the call has ended.
  void Report(v1::StoreReport report);
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void WriteNext();
  // There is nothing more to read or write: gRPC may end the call.
  void DropHold();

  const std::shared_ptr<TaskLoop> loop_;
  const Events events_;
  grpc::ClientContext context_;
  v1::StoreOrders orders_;    // being read
  v1::StoreReports reports_;  // being written

  // The loop's.
  std::deque<v1::StoreReport> unsent_;
  bool is_writing_ = true;  // the hello
  bool holds_ = true;
  absl::Status broken_;  // what the leader did wrong
};

}  // namespace longshelf::worker
