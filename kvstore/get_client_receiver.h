#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "digest_stream.h"
#include "kvstore/client.h"
#include "longshelf/v1/kvstore.pb.h"

namespace google::protobuf::io {
class CodedInputStream;
}

namespace longshelf::kvstore {

// Receives the frames of one Get call in order and hands over each object once it is whole and verified. Frames are
// read by hand: the payload goes from the incoming slices to its place in one copy and is hashed there. Nothing is
// allocated for what was not asked for. Used by one thread at a time.
class GetReceiver {
 public:
  using OnObject = std::function<void(size_t index, absl::StatusOr<FetchedObject> object)>;

  // `items` must outlive the receiver.
  GetReceiver(const Fingerprint& fingerprint, std::span<const GetItem> items, OnObject on_object)
      : fingerprint_(fingerprint), items_(items), on_object_(std::move(on_object)) {}

  // One serialized GetFrame. An error ends the call: the server does not speak the protocol.
  absl::Status OnFrame(grpc::ByteBuffer& frame);

  // What is still to come gets `status`.
  void Fail(const absl::Status& status);

  bool complete() const { return next_ == items_.size(); }
  // Payload bytes of the object that the next frame begins; 0 in the middle of one and after the last.
  uint64_t next_bytes() const { return in_object_ || complete() ? 0 : items_[next_].expected_bytes; }

 private:
  absl::Status OnHead(const v1::ObjectHead& wire);
  absl::Status OnData(google::protobuf::io::CodedInputStream& in, size_t n_frame_bytes);
  // Appends to what was received, or skips when the object failed already. False when the frame is malformed.
  bool TakePayload(google::protobuf::io::CodedInputStream& in, uint32_t n_bytes);
  void FinishObject();
  void Deliver(absl::StatusOr<FetchedObject> object);

  const Fingerprint fingerprint_;
  const std::span<const GetItem> items_;
  const OnObject on_object_;
  size_t next_ = 0;  // the object whose frames are due
  bool in_object_ = false;
  absl::Status failure_;  // of the object at hand
  FetchedObject object_;  // its payload grows to what the head announced, which was reserved
  DigestStream digest_;   // of what was received
};

}  // namespace longshelf::kvstore
