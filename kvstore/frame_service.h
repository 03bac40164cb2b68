#pragma once

// Frames of Get and Put. Those that carry payload are put together by hand, around bytes that stay where they are.
// Private to client and service.

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace longshelf::kvstore {

grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message);

// A serialized GetFrame{index, data{last, offset, payload}} whose payload, at the end, is still to be filled in.
struct GetDataFrame {
  grpc::Slice slice;
  std::span<std::byte> payload;
};
GetDataFrame MakeGetDataFrame(uint32_t index, uint64_t offset, bool last, size_t n_payload);

// A serialized PutFrame{data{object_id, offset, payload}} up to its payload, which is to follow.
grpc::Slice MakePutDataPrefix(uint32_t object_id, uint64_t offset, size_t n_payload);

}  // namespace longshelf::kvstore
