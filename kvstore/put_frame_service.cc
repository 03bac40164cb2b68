#include "put_frame_service.h"

#include <google/protobuf/wire_format_lite.h>

#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {
namespace {

using google::protobuf::internal::WireFormatLite;

constexpr uint32_t VarintTag(int field) { return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT); }
constexpr uint32_t BytesTag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

}  // namespace

std::optional<PutDataHead> ReadPutDataHead(google::protobuf::io::CodedInputStream& in, size_t n_frame_bytes) {
  const auto n_left = [&] { return n_frame_bytes - static_cast<size_t>(in.CurrentPosition()); };
  uint32_t n_data = 0;
  if (in.ReadTag() != BytesTag(v1::PutFrame::kDataFieldNumber)) return std::nullopt;
  if (!in.ReadVarint32(&n_data) || n_data != n_left()) return std::nullopt;
  PutDataHead head;
  uint32_t tag = in.ReadTag();
  if (tag == VarintTag(v1::PutData::kObjectIdFieldNumber)) {
    if (!in.ReadVarint32(&head.object_id)) return std::nullopt;
    tag = in.ReadTag();
  }
  if (tag == VarintTag(v1::PutData::kOffsetFieldNumber)) {
    if (!in.ReadVarint64(&head.offset)) return std::nullopt;
    tag = in.ReadTag();
  }
  uint32_t n_payload = 0;
  if (tag != BytesTag(v1::PutData::kPayloadFieldNumber)) return std::nullopt;
  if (!in.ReadVarint32(&n_payload) || n_payload != n_left()) return std::nullopt;
  head.n_payload = n_payload;
  return head;
}

}  // namespace longshelf::kvstore
