#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "edge_service.h"
#include "kvstore/store.h"
#include "longshelf/v1/kvstore.pb.h"
#include "put_frame_service.h"

namespace longshelf::kvstore {

// One Put stream. An object is opened, answered, filled in order and committed; what is open when the stream ends, for
// whatever reason, gives its memory back at once. A frame that breaks these rules ends the stream with
// INVALID_ARGUMENT. Raw: payloads are copied once, from gRPC's slices into pages. What a frame has answered, and what
// was answered while replies were being written, leaves in one message. Owns itself until OnDone.
class PutStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                        public std::enable_shared_from_this<PutStream> {
 public:
  static PutStream* Start(Edge& edge, const grpc::CallbackServerContext& context);
  explicit PutStream(Edge& edge);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // Read side; never two at once.
  absl::Status Handle();
  absl::Status HandleOpens(const PutOpens& opens);
  absl::Status HandleOpen(const v1::PutOpen& open);
  absl::Status HandleParsed(const v1::PutFrame& frame);
  absl::Status HandleData(const v1::PutData& data);
  // REQUIRES: mutex_ held. Checks what a frame says of its payload, and finds what it belongs to.
  absl::StatusOr<Store::Reservation*> TargetOf(uint32_t object_id, size_t n_payload);
  // The payload goes from where gRPC has it into the store's pages.
  absl::Status TakePayload(const PutDataHead& head, google::protobuf::io::CodedInputStream& in);
  absl::Status CopyPayload(const PutDataHead& head, google::protobuf::io::CodedInputStream& in);
  absl::Status HandleCommit(uint32_t object_id, const Digest& digest);
  absl::Status HandleAbort(uint32_t object_id);

  // A reply leaves with the next WriteReplies.
  void Reply(v1::PutReply reply);
  // These REQUIRE: mutex_ held.
  void ReplyLocked(v1::PutReply reply);
  void WriteReplies();
  // A put that is answered when the disk has it: both must be there, the store's answer and the disk's.
  Store::Durable AwaitDisk(uint32_t object_id, bool durable);
  void ForgetDisk(uint32_t object_id);
  void ReplyWhenDurable(v1::PutReply reply);
  void OnDisk(uint32_t object_id, const absl::Status& status);
  // REQUIRES: mutex_ held.
  void MaybeReplyDurable(uint32_t object_id);
  void ReplyError(uint32_t object_id, const absl::Status& status);
  void ReplyOpenFailure(uint32_t object_id, const absl::Status& status);
  // Ends the stream once queued replies are out, or now when it failed.
  void End(const absl::Status& status);
  // REQUIRES: mutex_ held.
  void MaybeFinish();
  void FreeOpen();

  Edge& edge_;                      // not after OnDone: the disk's answer may come when the server is gone
  std::optional<StreamSlot> slot_;  // until then, whoever still holds the stream
  std::shared_ptr<PutStream> self_;
  grpc::ByteBuffer frame_;
  size_t n_opened_ = 0;

  // gRPC runs reads, writes and OnCancel side by side; this guards what they share. A reactor cannot have a mailbox of
  // its own: the callbacks are its thread.
  std::mutex mutex_;
  struct OpenObject {
    Store::Reservation reservation;
    bool durable = false;
  };
  std::map<uint32_t, OpenObject> open_;
  struct Awaited {
    std::optional<v1::PutReply> reply;
    std::optional<absl::Status> disk;
  };
  std::map<uint32_t, Awaited> awaited_;
  v1::PutReplies replies_;    // that wait
  grpc::ByteBuffer written_;  // the replies on their way
  bool writing_ = false;
  bool read_paused_ = false;  // the client does not take its replies
  bool finished_ = false;
  std::optional<absl::Status> end_;
};

}  // namespace longshelf::kvstore
