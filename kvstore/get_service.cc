#include "get_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "proto/grpc_status.h"
#include "wire_service.h"

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

// A serialized GetFrame{index, data{last, offset, payload}} whose payload, at the end, is still to be filled in.
struct DataFrame {
  grpc::Slice slice;
  std::span<std::byte> payload;
};

DataFrame MakeDataFrame(uint32_t index, uint64_t offset, bool last, size_t n_payload) {
  const size_t data_bytes = VarintFieldBytes(v1::GetData::kLastFieldNumber, last ? 1 : 0) +
                            VarintFieldBytes(v1::GetData::kOffsetFieldNumber, offset) +
                            LengthPrefixBytes(v1::GetData::kPayloadFieldNumber, n_payload) + n_payload;
  const size_t total = VarintFieldBytes(v1::GetFrame::kIndexFieldNumber, index) +
                       LengthPrefixBytes(v1::GetFrame::kDataFieldNumber, data_bytes) + data_bytes;
  DataFrame frame{grpc::Slice(total), {}};
  // A fresh slice of one owner: grpc::Slice has no writable view of its own.
  uint8_t* const begin = const_cast<uint8_t*>(frame.slice.begin());
  uint8_t* out = PutVarintField(v1::GetFrame::kIndexFieldNumber, index, begin);
  out = PutLengthPrefix(v1::GetFrame::kDataFieldNumber, data_bytes, out);
  out = PutVarintField(v1::GetData::kLastFieldNumber, last ? 1 : 0, out);
  out = PutVarintField(v1::GetData::kOffsetFieldNumber, offset, out);
  out = PutLengthPrefix(v1::GetData::kPayloadFieldNumber, n_payload, out);
  LONGSHELF_CHECK(static_cast<size_t>(out - begin) + n_payload == total);
  frame.payload = {reinterpret_cast<std::byte*>(out), n_payload};
  return frame;
}

}  // namespace

GetStream::GetStream(Edge& edge) : edge_(edge), slot_(edge) {}

GetStream* GetStream::Start(Edge& edge, const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request) {
  auto stream = std::make_shared<GetStream>(edge);
  stream->self_ = stream;
  absl::Status status = edge.CheckStream(context);
  if (status.ok()) status = stream->slot_.Check();
  if (status.ok()) status = stream->Parse(request);
  if (status.ok()) {
    stream->WriteNext();
  } else {
    stream->Finish(proto::ToGrpc(status));
  }
  return stream.get();
}

absl::Status GetStream::Parse(const grpc::ByteBuffer& request) {
  grpc::ByteBuffer copy(request);  // shares the slices; the reader consumes its buffer
  grpc::ProtoBufferReader reader(&copy);
  v1::GetRequest parsed;
  if (!parsed.ParseFromZeroCopyStream(&reader)) return absl::InvalidArgumentError("not a GetRequest");
  if (static_cast<size_t>(parsed.keys_size()) > kMaxKeysPerCall) {
    return absl::InvalidArgumentError(absl::StrCat("keys: ", parsed.keys_size(), ", at most ", kMaxKeysPerCall));
  }
  ASSIGN_OR_RETURN(fingerprint_, HashFromWire(parsed.fingerprint(), "fingerprint"));
  keys_.reserve(static_cast<size_t>(parsed.keys_size()));
  for (const std::string& bytes : parsed.keys()) {
    ASSIGN_OR_RETURN(keys_.emplace_back(), KeyFromWire(bytes));
  }
  return absl::OkStatus();
}

void GetStream::OnWriteDone(bool ok) {
  if (ok) return WriteNext();
  reader_.reset();
  Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the stream broke"));
}

void GetStream::OnDone() {
  reader_.reset();
  const std::shared_ptr<GetStream> last = std::move(self_);
}

void GetStream::WriteNext() {
  if (reader_.has_value()) return WriteData();
  if (index_ == keys_.size()) return Finish(grpc::Status::OK);
  // Nothing else happens to the stream until this is answered: what it waits for is the next write.
  edge_.store.Fetch(keys_[index_], fingerprint_,
                    [this](absl::StatusOr<Store::Reader> found) { WriteFound(std::move(found)); });
}

void GetStream::WriteFound(absl::StatusOr<Store::Reader> found) {
  if (!found.ok()) return WriteError(found.status());
  reader_ = *std::move(found);
  WriteHead();
}

void GetStream::WriteHead() {
  v1::GetFrame frame;
  frame.set_index(index_);
  HeadToWire(reader_->head(), frame.mutable_head());
  WriteMessage(frame);
}

void GetStream::WriteData() {
  const uint64_t offset = reader_->offset();
  const uint64_t left = reader_->head().payload_bytes - offset;
  const size_t n_payload = std::min<uint64_t>(left, kMaxFrameBytes);
  const bool last = n_payload == left;
  DataFrame frame = MakeDataFrame(index_, offset, last, n_payload);
  if (const absl::Status status = reader_->Read(frame.payload); !status.ok()) {
    edge_.counters.get_corrupt.Increment();
    return WriteError(status);
  }
  edge_.counters.bytes_out.Increment(static_cast<double>(n_payload));
  if (last) {
    reader_.reset();
    ++index_;
  }
  frame_ = grpc::ByteBuffer(&frame.slice, 1);
  StartWrite(&frame_);
}

void GetStream::WriteError(const absl::Status& status) {
  v1::GetFrame frame;
  frame.set_index(index_);
  ErrorToWire(status, frame.mutable_error());
  reader_.reset();
  ++index_;
  WriteMessage(frame);
}

void GetStream::WriteMessage(const v1::GetFrame& frame) {
  const grpc::Slice slice(frame.SerializeAsString());
  frame_ = grpc::ByteBuffer(&slice, 1);
  StartWrite(&frame_);
}

}  // namespace longshelf::kvstore
