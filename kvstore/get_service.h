#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <vector>

#include "edge_service.h"
#include "frame_service.h"
#include "kvstore/store.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {

// One Get call: objects one after another, one frame in flight, so a slow reader costs a pinned object and nothing
// else. What is only on disk is read by a thread of the store, which then goes on with the stream. Frames are built by
// hand around the payload, which gRPC sends from where the store has it. Owns itself until OnDone; gRPC calls it from
// one thread at a time.
class GetStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  static GetStream* Start(Edge& edge, const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request);
  explicit GetStream(Edge& edge);

  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  absl::Status Parse(const grpc::ByteBuffer& request);
  void WriteNext();
  void WriteFound(absl::StatusOr<Store::Reader> found);
  void WriteData();
  void WriteError(const absl::Status& status);
  void WriteMessage(const v1::GetFrame& frame);

  Edge& edge_;
  StreamSlot slot_;
  std::shared_ptr<GetStream> self_;
  Fingerprint fingerprint_{};
  std::vector<ObjectKey> keys_;
  uint32_t index_ = 0;  // of the object being sent
  std::optional<Store::Reader> reader_;
  grpc::ByteBuffer frame_;
};

}  // namespace longshelf::kvstore
