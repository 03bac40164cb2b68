#pragma once

// Frames of Get and Put. Those that carry payload are put together by hand, around bytes that stay where they are.
// Private to client and service.

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace longshelf::kvstore {

// Memory of outgoing frames. gRPC gives it back from any thread when a frame is sent, and the next frame takes it:
// fresh memory of this size would be mapped, faulted in and unmapped for every frame. Lives until the last frame is
// sent.
class FramePool {
 public:
  FramePool() : free_(std::make_shared<Free>()) {}
  // n_bytes of memory for one frame.
  grpc::Slice Take(size_t n_bytes);

 private:
  struct Frame {
    size_t n_bytes = 0;
    std::unique_ptr<uint8_t[]> bytes;
  };
  struct Free {
    std::mutex mutex;  // guards frames
    std::vector<Frame> frames;
  };
  struct Lent;
  std::shared_ptr<Free> free_;
};

grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message);

// A serialized GetFrame{index, data{last, offset, payload}} whose payload, at the end, is still to be filled in.
struct GetDataFrame {
  grpc::Slice slice;
  std::span<std::byte> payload;
};
GetDataFrame MakeGetDataFrame(FramePool& pool, uint32_t index, uint64_t offset, bool last, size_t n_payload);

// A serialized PutFrame{data{object_id, offset, payload}} up to its payload, which is to follow.
grpc::Slice MakePutDataPrefix(uint32_t object_id, uint64_t offset, size_t n_payload);

}  // namespace longshelf::kvstore
