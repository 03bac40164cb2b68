#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "kvstore/client.h"
#include "longshelf/v1/kvstore.pb.h"

namespace google::protobuf::io {
class CodedInputStream;
}

namespace longshelf::kvstore {

absl::Status FromError(const v1::ObjectError& error);

// Receives the frames of one Get call in order and hands over each object once it is whole and verified. Frames are
// read by hand: the payload goes from the incoming slices to its place in one copy. Owned by the calling thread.
class GetReceiver {
 public:
  // Everything must outlive the receiver.
  GetReceiver(const Fingerprint& fingerprint, std::span<const GetItem> items, const Client::OnObject& on_object)
      : fingerprint_(fingerprint), items_(items), on_object_(on_object) {}

  // One serialized GetFrame. An error ends the call: the server does not speak the protocol.
  absl::Status OnFrame(grpc::ByteBuffer& frame);

  // What is still to come gets `status`.
  void Fail(const absl::Status& status);

  bool complete() const { return next_ == items_.size(); }

 private:
  absl::Status OnHead(const v1::ObjectHead& wire);
  absl::Status OnData(google::protobuf::io::CodedInputStream& in);
  // Copies to the end of what was received, or skips when the object failed already.
  bool TakePayload(google::protobuf::io::CodedInputStream& in, uint32_t n_bytes);
  void FinishObject();
  void Deliver(absl::StatusOr<FetchedObject> object);

  const Fingerprint& fingerprint_;
  const std::span<const GetItem> items_;
  const Client::OnObject& on_object_;
  size_t next_ = 0;  // the object whose frames are due
  bool in_object_ = false;
  absl::Status failure_;  // of the object at hand
  FetchedObject object_;
  size_t n_received_ = 0;
};

}  // namespace longshelf::kvstore
