#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "call_registry.h"
#include "digest_stream.h"
#include "kvstore/client.h"
#include "longshelf/v1/kvstore.pb.h"
#include "serial_callbacks.h"

namespace longshelf::kvstore {

// One Put call. Offers are opened in order, a window of them at a time; what the store gives credit for is sent in
// frames around the payload where it lies, with the opens that are due. A payload is hashed as it is sent, while the
// processor has it at hand. One write and one read are in flight. Owned by the registry until the last callback has
// run.
class PutCallReactor final : public RunningCall,
                             public grpc::ClientBidiReactor<grpc::ByteBuffer, v1::PutReplies>,
                             public std::enable_shared_from_this<PutCallReactor> {
 public:
  PutCallReactor(std::shared_ptr<CallRegistry> calls, Client::PutEvents events);

  grpc::ClientContext& context() { return *context_; }
  // REQUIRES: gRPC has prepared the call.
  void Start();
  // Ends a call that was not started.
  void Refuse(const absl::Status& status) { End(status); }

  void Offer(PutItem item);
  void FinishOffers();
  void Cancel() override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  using ObjectId = uint32_t;
  enum class Stage { kQueued, kOpened, kCredited, kSent };
  struct Object {
    PutItem item;
    Stage stage = Stage::kQueued;
    size_t n_sent = 0;
  };

  using Objects = std::map<ObjectId, Object>;  // in the order of the offers

  // These REQUIRE: mutex_ held.
  // False when it breaks the protocol.
  bool OnReplies();
  bool OnReply(const v1::PutReply& reply);
  bool OnExists(Objects::iterator object, const v1::PutExists& exists);
  void Answer(Objects::iterator object, absl::StatusOr<PutOutcome> outcome);
  // Starts the next write if none is in flight and there is something to write.
  void WriteNext();
  // Both add to the frame that is written next.
  void AddOpens(std::vector<grpc::Slice>& parts);
  void AddPayload(std::vector<grpc::Slice>& parts);
  // There is nothing more to write: gRPC may end the call.
  void DropHold();

  // The last callbacks. REQUIRES: mutex_ not held.
  void End(const absl::Status& status);

  const std::shared_ptr<CallRegistry> calls_;
  Client::PutEvents events_;  // called by callbacks_ only
  SerialCallbacks callbacks_;
  grpc::ByteBuffer frame_;  // being written
  v1::PutReplies replies_;  // being read

  // Guards what is below: offers come from any thread, and gRPC runs reads and writes side by side.
  std::mutex mutex_;
  Objects objects_;  // without an answer
  std::deque<ObjectId> queued_;
  std::deque<ObjectId> credited_;       // the front is being sent
  std::optional<DigestStream> hashed_;  // what was sent of it
  size_t n_offered_ = 0;
  size_t n_open_ = 0;
  bool writing_ = false;
  bool holds_ = true;  // keeps gRPC from ending the call between two writes
  bool finish_requested_ = false;
  bool cancelled_ = false;
  bool ended_ = false;
  absl::Status broken_;  // what the store did wrong
  // Gone before the registry forgets the call: it holds the channel, whose end on a thread of gRPC gRPC does not
  // survive.
  std::optional<grpc::ClientContext> context_{std::in_place};
};

}  // namespace longshelf::kvstore
