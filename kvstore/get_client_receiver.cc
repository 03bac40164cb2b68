#include "get_client_receiver.h"

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "frame_service.h"
#include "kvstore/wire_service.h"

namespace longshelf::kvstore {
namespace {

using google::protobuf::io::CodedInputStream;

constexpr uint32_t kMaxSmallBytes = 64 << 10;  // heads and errors

absl::Status Malformed() { return absl::InternalError("the store sent a malformed frame"); }

bool ReadSmall(CodedInputStream& in, google::protobuf::MessageLite& message) {
  uint32_t n_bytes = 0;
  std::string bytes;
  return ReadLength(in, n_bytes) && n_bytes <= kMaxSmallBytes && in.ReadString(&bytes, static_cast<int>(n_bytes)) &&
         message.ParseFromString(bytes);
}

}  // namespace

absl::Status GetReceiver::OnFrame(grpc::ByteBuffer& frame) {
  const size_t n_frame_bytes = frame.Length();
  grpc::ProtoBufferReader slices(&frame);
  if (!slices.status().ok()) return Malformed();
  CodedInputStream in(&slices);
  // Index 0 is the default and may be left out; every writer puts it before the rest.
  uint32_t index = 0;
  uint32_t tag = ReadTag(in);
  if (tag == VarintTag(v1::GetFrame::kIndexFieldNumber)) {
    if (!in.ReadVarint32(&index)) return Malformed();
    tag = ReadTag(in);
  }
  if (index != next_ || next_ >= items_.size()) {
    return absl::InternalError(absl::StrCat("frame of object ", index, " instead of ", next_));
  }
  if (tag == 0) return Malformed();  // nothing in it
  if (tag == BytesTag(v1::GetFrame::kHeadFieldNumber)) {
    v1::ObjectHead head;
    if (!ReadSmall(in, head)) return Malformed();
    RETURN_IF_ERROR(OnHead(head));
    tag = ReadTag(in);
  }
  if (tag == BytesTag(v1::GetFrame::kDataFieldNumber)) {
    RETURN_IF_ERROR(OnData(in, n_frame_bytes));
    tag = ReadTag(in);
  } else if (tag == BytesTag(v1::GetFrame::kErrorFieldNumber)) {
    v1::ObjectError error;
    if (!ReadSmall(in, error)) return Malformed();
    Deliver(ErrorFromWire(error));
    tag = ReadTag(in);
  }
  return tag == 0 && in.ConsumedEntireMessage() ? absl::OkStatus() : Malformed();
}

void GetReceiver::Fail(const absl::Status& status) {
  while (next_ < items_.size()) Deliver(status);
}

absl::Status GetReceiver::OnHead(const v1::ObjectHead& wire) {
  if (in_object_) return absl::InternalError("a second head");
  in_object_ = true;
  failure_ = absl::OkStatus();
  const GetItem& item = items_[next_];
  absl::StatusOr<ObjectHead> head = HeadFromWire(wire);
  if (!head.ok() || head->key != item.key || head->fingerprint != fingerprint_) {
    failure_ = absl::DataLossError("the store sent another object than was asked for");
    return absl::OkStatus();
  }
  if (head->payload_bytes != item.expected_bytes || head->payload_bytes > kMaxPayloadBytes) {
    failure_ = absl::FailedPreconditionError(
        absl::StrCat("payload_bytes: ", head->payload_bytes, ", expected ", item.expected_bytes));
    return absl::OkStatus();
  }
  object_.head = *std::move(head);
  object_.payload.reserve(object_.head.payload_bytes);
  digest_ = DigestStream();
  return absl::OkStatus();
}

absl::Status GetReceiver::OnData(CodedInputStream& in, size_t n_frame_bytes) {
  if (!in_object_) return absl::InternalError("data without a head");
  uint32_t n_bytes = 0;
  // A limit that lies behind the frame would be none.
  if (!ReadLength(in, n_bytes) || n_bytes > n_frame_bytes - static_cast<size_t>(in.CurrentPosition())) {
    return Malformed();
  }
  const CodedInputStream::Limit limit = in.PushLimit(static_cast<int>(n_bytes));
  const size_t begin = object_.payload.size();
  uint64_t offset = 0;
  uint64_t last = 0;
  while (const uint32_t tag = ReadTag(in)) {
    uint32_t n_payload = 0;
    if (tag == VarintTag(v1::GetData::kOffsetFieldNumber)) {
      if (!in.ReadVarint64(&offset)) return Malformed();
    } else if (tag == VarintTag(v1::GetData::kLastFieldNumber)) {
      if (!in.ReadVarint64(&last)) return Malformed();
    } else if (tag == BytesTag(v1::GetData::kPayloadFieldNumber)) {
      if (!ReadLength(in, n_payload) || !TakePayload(in, n_payload)) return Malformed();
    } else {
      return Malformed();
    }
  }
  if (!in.ConsumedEntireMessage()) return Malformed();
  in.PopLimit(limit);
  if (failure_.ok() && offset != begin) failure_ = absl::DataLossError("bytes out of order");
  if (last != 0) FinishObject();
  return absl::OkStatus();
}

bool GetReceiver::TakePayload(CodedInputStream& in, uint32_t n_bytes) {
  if (n_bytes > kMaxFrameBytes) return false;
  if (failure_.ok() && n_bytes > object_.head.payload_bytes - object_.payload.size()) {
    failure_ = absl::DataLossError("bytes beyond the announced size");
  }
  if (!failure_.ok()) return in.Skip(static_cast<int>(n_bytes));
  for (int n_left = static_cast<int>(n_bytes); n_left > 0;) {
    const void* slice = nullptr;
    int n = 0;
    if (!in.GetDirectBufferPointer(&slice, &n)) return false;
    n = std::min(n, n_left);
    const auto* const bytes = static_cast<const std::byte*>(slice);
    object_.payload.insert(object_.payload.end(), bytes, bytes + n);
    digest_.Add(std::span(object_.payload).last(static_cast<size_t>(n)));
    if (!in.Skip(n)) return false;
    n_left -= n;
  }
  return true;
}

void GetReceiver::FinishObject() {
  if (failure_.ok() &&
      (object_.payload.size() != object_.head.payload_bytes || digest_.Finish() != object_.head.digest)) {
    failure_ = absl::DataLossError("the received bytes do not match their digest");
  }
  if (failure_.ok()) {
    Deliver(std::move(object_));
  } else {
    Deliver(failure_);
  }
}

void GetReceiver::Deliver(absl::StatusOr<FetchedObject> object) {
  in_object_ = false;
  object_ = {};
  on_object_(next_++, std::move(object));
}

}  // namespace longshelf::kvstore
