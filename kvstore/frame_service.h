#pragma once

// Frames of Get and Put. Those that carry payload are put together by hand, around bytes that stay where they are.
// Private to client and service.

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kvstore/object.h"

namespace longshelf::kvstore {

// Bytes where they lie, as gRPC wants them. It lets go of their keeper when they are sent, or never will be, on any
// thread and maybe after the call.
grpc::Slice SliceOf(std::span<const std::byte> bytes, std::shared_ptr<const void> keeper);

grpc::Slice SerializeSlice(const google::protobuf::MessageLite& message);
grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message);

// A serialized GetFrame{index, head, data{last, offset, payload}} up to its payload, which is to follow. `head` is null
// but in an object's first frame.
grpc::Slice MakeGetDataPrefix(uint32_t index, const google::protobuf::MessageLite* head, uint64_t offset, bool last,
                              size_t n_payload);

// A serialized PutFrame{data{object_id, offset, xxh3_128, payload}} up to its payload, which is to follow. Opens may
// stand before it. `digest` is null but in an object's last frame.
grpc::Slice MakePutDataPrefix(uint32_t object_id, uint64_t offset, const Digest* digest, size_t n_payload);

constexpr uint32_t VarintTag(int field) {
  using google::protobuf::internal::WireFormatLite;
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT);
}
constexpr uint32_t BytesTag(int field) {
  using google::protobuf::internal::WireFormatLite;
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

// For frames that are read by hand: as protobuf's own parser reads them, which its stream is laxer than. All tags of
// these messages are one byte. 0: another, or the end.
uint32_t ReadTag(google::protobuf::io::CodedInputStream& in);
// The length before bytes or a message.
bool ReadLength(google::protobuf::io::CodedInputStream& in, uint32_t& n_bytes);

}  // namespace longshelf::kvstore
