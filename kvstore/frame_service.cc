#include "frame_service.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {
namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

size_t VarintFieldBytes(int field, uint64_t value) {
  return CodedOutputStream::VarintSize32(VarintTag(field)) + CodedOutputStream::VarintSize64(value);
}

size_t LengthPrefixBytes(int field, size_t n_bytes) {
  return CodedOutputStream::VarintSize32(BytesTag(field)) + CodedOutputStream::VarintSize64(n_bytes);
}

uint8_t* PutVarintField(int field, uint64_t value, uint8_t* out) {
  out = CodedOutputStream::WriteTagToArray(VarintTag(field), out);
  return CodedOutputStream::WriteVarint64ToArray(value, out);
}

uint8_t* PutLengthPrefix(int field, size_t n_bytes, uint8_t* out) {
  out = CodedOutputStream::WriteTagToArray(BytesTag(field), out);
  return CodedOutputStream::WriteVarint64ToArray(n_bytes, out);
}

// A fresh slice of one owner: grpc::Slice has no writable view of its own.
uint8_t* Fill(grpc::Slice& slice) { return const_cast<uint8_t*>(slice.begin()); }

}  // namespace

grpc::Slice SliceOf(std::span<const std::byte> bytes, std::shared_ptr<const void> keeper) {
  using Keeper = std::shared_ptr<const void>;
  const auto release = [](void* kept) { std::unique_ptr<Keeper>(static_cast<Keeper*>(kept)).reset(); };
  // gRPC does not write to what it sends.
  auto* const sent = const_cast<std::byte*>(bytes.data());
  return {sent, bytes.size(), release, std::make_unique<Keeper>(std::move(keeper)).release()};
}

grpc::Slice SerializeSlice(const google::protobuf::MessageLite& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(Fill(slice));
  return slice;
}

grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice = SerializeSlice(message);
  return {&slice, 1};
}

grpc::Slice MakeGetDataPrefix(uint32_t index, const google::protobuf::MessageLite* head, uint64_t offset, bool last,
                              size_t n_payload) {
  const size_t head_bytes = head == nullptr ? 0 : head->ByteSizeLong();
  const size_t head_field =
      head == nullptr ? 0 : LengthPrefixBytes(v1::GetFrame::kHeadFieldNumber, head_bytes) + head_bytes;
  const size_t fields_bytes = VarintFieldBytes(v1::GetData::kLastFieldNumber, last ? 1 : 0) +
                              VarintFieldBytes(v1::GetData::kOffsetFieldNumber, offset) +
                              LengthPrefixBytes(v1::GetData::kPayloadFieldNumber, n_payload);
  const size_t data_bytes = fields_bytes + n_payload;
  grpc::Slice prefix(VarintFieldBytes(v1::GetFrame::kIndexFieldNumber, index) + head_field +
                     LengthPrefixBytes(v1::GetFrame::kDataFieldNumber, data_bytes) + fields_bytes);
  uint8_t* const begin = Fill(prefix);
  uint8_t* out = PutVarintField(v1::GetFrame::kIndexFieldNumber, index, begin);
  if (head != nullptr) {
    out = PutLengthPrefix(v1::GetFrame::kHeadFieldNumber, head_bytes, out);
    out = head->SerializeWithCachedSizesToArray(out);
  }
  out = PutLengthPrefix(v1::GetFrame::kDataFieldNumber, data_bytes, out);
  out = PutVarintField(v1::GetData::kLastFieldNumber, last ? 1 : 0, out);
  out = PutVarintField(v1::GetData::kOffsetFieldNumber, offset, out);
  out = PutLengthPrefix(v1::GetData::kPayloadFieldNumber, n_payload, out);
  LONGSHELF_CHECK(static_cast<size_t>(out - begin) == prefix.size());
  return prefix;
}

grpc::Slice MakePutDataPrefix(uint32_t object_id, uint64_t offset, const Digest* digest, size_t n_payload) {
  const size_t digest_field =
      digest == nullptr ? 0 : LengthPrefixBytes(v1::PutData::kXxh3128FieldNumber, digest->size()) + digest->size();
  const size_t fields_bytes = VarintFieldBytes(v1::PutData::kObjectIdFieldNumber, object_id) +
                              VarintFieldBytes(v1::PutData::kOffsetFieldNumber, offset) + digest_field +
                              LengthPrefixBytes(v1::PutData::kPayloadFieldNumber, n_payload);
  const size_t data_bytes = fields_bytes + n_payload;
  grpc::Slice prefix(LengthPrefixBytes(v1::PutFrame::kDataFieldNumber, data_bytes) + fields_bytes);
  uint8_t* const begin = Fill(prefix);
  uint8_t* out = PutLengthPrefix(v1::PutFrame::kDataFieldNumber, data_bytes, begin);
  out = PutVarintField(v1::PutData::kObjectIdFieldNumber, object_id, out);
  out = PutVarintField(v1::PutData::kOffsetFieldNumber, offset, out);
  if (digest != nullptr) {
    out = PutLengthPrefix(v1::PutData::kXxh3128FieldNumber, digest->size(), out);
    out = std::copy(digest->begin(), digest->end(), out);
  }
  out = PutLengthPrefix(v1::PutData::kPayloadFieldNumber, n_payload, out);
  LONGSHELF_CHECK(static_cast<size_t>(out - begin) == prefix.size());
  return prefix;
}

uint32_t ReadTag(CodedInputStream& in) {
  const int before = in.CurrentPosition();
  const uint32_t tag = in.ReadTag();
  return in.CurrentPosition() == before + 1 ? tag : 0;
}

bool ReadLength(CodedInputStream& in, uint32_t& n_bytes) {
  constexpr int kLongest = 5;
  const int before = in.CurrentPosition();
  uint64_t value = 0;
  if (!in.ReadVarint64(&value) || in.CurrentPosition() > before + kLongest || value > INT32_MAX) return false;
  n_bytes = static_cast<uint32_t>(value);
  return true;
}

}  // namespace longshelf::kvstore
