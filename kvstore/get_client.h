#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "call_registry.h"
#include "get_client_receiver.h"
#include "kvstore/client.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {

// One Get call. A read is in flight unless the receiver of the objects holds as much as it may: then the call pauses,
// and HTTP/2 stops the store. Owned by the registry until OnDone; gRPC runs its reactions one after another.
class GetCallReactor final : public RunningCall,
                             public grpc::ClientBidiReactor<v1::GetRequest, grpc::ByteBuffer>,
                             public std::enable_shared_from_this<GetCallReactor> {
 public:
  GetCallReactor(std::shared_ptr<CallRegistry> calls, Client::GetRequest request, Client::GetEvents events);

  grpc::ClientContext& context() { return *context_; }
  // REQUIRES: gRPC has prepared the call, with this deadline.
  void Start(gpr_timespec deadline);
  // Ends a call that was not started.
  void Refuse(const absl::Status& status) { End(status); }

  void Release(uint64_t n_bytes);
  void Cancel() override;

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void Deliver(size_t index, absl::StatusOr<FetchedObject> object);
  // Nobody will ask for more: gRPC may end the call although no read is in flight. REQUIRES: mutex_ held.
  void DropHold();
  bool HasRoom() const { return n_unreleased_ == 0 || n_unreleased_ + next_bytes_ <= request_.window_bytes; }
  // The last thing that a call does.
  void End(const absl::Status& status);

  const std::shared_ptr<CallRegistry> calls_;
  const Client::GetRequest request_;
  Client::GetEvents events_;
  v1::GetRequest wire_;
  GetReceiver receiver_;
  grpc::ByteBuffer frame_;
  // Ends a paused call at its deadline, which gRPC would not report.
  grpc::Alarm at_deadline_;

  // Guards what is below: Release and Cancel come from any thread, and there is no mailbox, as the reactions are the
  // only thread of a call.
  std::mutex mutex_;
  uint64_t n_unreleased_;    // payload bytes delivered and not yet released
  uint64_t next_bytes_ = 0;  // of the object that is due
  bool paused_ = false;
  bool holds_ = true;  // keeps gRPC from ending the call while it is paused
  bool cancelled_ = false;
  absl::Status broken_;  // what the store did wrong
  // Gone before the registry forgets the call: it holds the channel, whose end on a thread of gRPC gRPC does not
  // survive.
  std::optional<grpc::ClientContext> context_{std::in_place};
};

}  // namespace longshelf::kvstore
