#include "frame_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <utility>

#include "common/check.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

size_t VarintFieldBytes(int field, uint64_t value) {
  return CodedOutputStream::VarintSize32(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT)) +
         CodedOutputStream::VarintSize64(value);
}

size_t LengthPrefixBytes(int field, size_t n_bytes) {
  return CodedOutputStream::VarintSize32(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED)) +
         CodedOutputStream::VarintSize64(n_bytes);
}

uint8_t* PutVarintField(int field, uint64_t value, uint8_t* out) {
  out = CodedOutputStream::WriteTagToArray(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT), out);
  return CodedOutputStream::WriteVarint64ToArray(value, out);
}

uint8_t* PutLengthPrefix(int field, size_t n_bytes, uint8_t* out) {
  out = CodedOutputStream::WriteTagToArray(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED),
                                           out);
  return CodedOutputStream::WriteVarint64ToArray(n_bytes, out);
}

// A fresh slice of one owner: grpc::Slice has no writable view of its own.
uint8_t* Fill(grpc::Slice& slice) { return const_cast<uint8_t*>(slice.begin()); }

}  // namespace

// A frame on its way. gRPC frees it.
struct FramePool::Lent {
  std::shared_ptr<Free> pool;
  Frame frame;
};

grpc::Slice FramePool::Take(size_t n_bytes) {
  auto lent = std::make_unique<Lent>(Lent{free_, {}});
  {
    std::lock_guard lock(free_->mutex);
    while (!free_->frames.empty() && lent->frame.n_bytes < n_bytes) {
      lent->frame = std::move(free_->frames.back());
      free_->frames.pop_back();
    }
  }
  if (lent->frame.n_bytes < n_bytes) lent->frame = {n_bytes, std::make_unique_for_overwrite<uint8_t[]>(n_bytes)};
  uint8_t* const bytes = lent->frame.bytes.get();
  const auto give_back = [](void* kept) {
    const std::unique_ptr<Lent> returned(static_cast<Lent*>(kept));
    std::lock_guard lock(returned->pool->mutex);
    returned->pool->frames.push_back(std::move(returned->frame));
  };
  return {bytes, n_bytes, give_back, lent.release()};
}

grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(Fill(slice));
  return {&slice, 1};
}

GetDataFrame MakeGetDataFrame(FramePool& pool, uint32_t index, uint64_t offset, bool last, size_t n_payload) {
  const size_t data_bytes = VarintFieldBytes(v1::GetData::kLastFieldNumber, last ? 1 : 0) +
                            VarintFieldBytes(v1::GetData::kOffsetFieldNumber, offset) +
                            LengthPrefixBytes(v1::GetData::kPayloadFieldNumber, n_payload) + n_payload;
  const size_t total = VarintFieldBytes(v1::GetFrame::kIndexFieldNumber, index) +
                       LengthPrefixBytes(v1::GetFrame::kDataFieldNumber, data_bytes) + data_bytes;
  GetDataFrame frame{pool.Take(total), {}};
  uint8_t* const begin = Fill(frame.slice);
  uint8_t* out = PutVarintField(v1::GetFrame::kIndexFieldNumber, index, begin);
  out = PutLengthPrefix(v1::GetFrame::kDataFieldNumber, data_bytes, out);
  out = PutVarintField(v1::GetData::kLastFieldNumber, last ? 1 : 0, out);
  out = PutVarintField(v1::GetData::kOffsetFieldNumber, offset, out);
  out = PutLengthPrefix(v1::GetData::kPayloadFieldNumber, n_payload, out);
  LONGSHELF_CHECK(static_cast<size_t>(out - begin) + n_payload == total);
  frame.payload = {reinterpret_cast<std::byte*>(out), n_payload};
  return frame;
}

grpc::Slice MakePutDataPrefix(uint32_t object_id, uint64_t offset, size_t n_payload) {
  const size_t fields_bytes = VarintFieldBytes(v1::PutData::kObjectIdFieldNumber, object_id) +
                              VarintFieldBytes(v1::PutData::kOffsetFieldNumber, offset) +
                              LengthPrefixBytes(v1::PutData::kPayloadFieldNumber, n_payload);
  const size_t data_bytes = fields_bytes + n_payload;
  grpc::Slice prefix(LengthPrefixBytes(v1::PutFrame::kDataFieldNumber, data_bytes) + fields_bytes);
  uint8_t* const begin = Fill(prefix);
  uint8_t* out = PutLengthPrefix(v1::PutFrame::kDataFieldNumber, data_bytes, begin);
  out = PutVarintField(v1::PutData::kObjectIdFieldNumber, object_id, out);
  out = PutVarintField(v1::PutData::kOffsetFieldNumber, offset, out);
  out = PutLengthPrefix(v1::PutData::kPayloadFieldNumber, n_payload, out);
  LONGSHELF_CHECK(static_cast<size_t>(out - begin) == prefix.size());
  return prefix;
}

}  // namespace longshelf::kvstore
