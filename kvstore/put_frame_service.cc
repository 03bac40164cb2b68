#include "put_frame_service.h"

#include <string>

#include "frame_service.h"

namespace longshelf::kvstore {
namespace {

constexpr uint32_t kMaxOpenBytes = 4 << 10;

}  // namespace

std::optional<PutDataHead> ReadPutDataHead(google::protobuf::io::CodedInputStream& in, size_t n_frame_bytes,
                                           PutOpens* opens) {
  const auto n_left = [&] { return n_frame_bytes - static_cast<size_t>(in.CurrentPosition()); };
  uint32_t tag = ReadTag(in);
  std::string bytes;
  for (; tag == BytesTag(v1::PutFrame::kOpensFieldNumber); tag = ReadTag(in)) {
    uint32_t n_open = 0;
    if (opens->size() == kMaxOpensPerFrame) return std::nullopt;
    if (!ReadLength(in, n_open) || n_open > kMaxOpenBytes) return std::nullopt;
    if (!in.ReadString(&bytes, static_cast<int>(n_open)) || !opens->Add()->ParseFromString(bytes)) return std::nullopt;
  }
  uint32_t n_data = 0;
  if (tag != BytesTag(v1::PutFrame::kDataFieldNumber)) return std::nullopt;
  if (!ReadLength(in, n_data) || n_data != n_left()) return std::nullopt;
  PutDataHead head;
  tag = ReadTag(in);
  if (tag == VarintTag(v1::PutData::kObjectIdFieldNumber)) {
    if (!in.ReadVarint32(&head.object_id)) return std::nullopt;
    tag = ReadTag(in);
  }
  if (tag == VarintTag(v1::PutData::kOffsetFieldNumber)) {
    if (!in.ReadVarint64(&head.offset)) return std::nullopt;
    tag = ReadTag(in);
  }
  if (tag == BytesTag(v1::PutData::kXxh3128FieldNumber)) {
    uint32_t n_digest = 0;
    Digest& digest = head.digest.emplace();
    if (!ReadLength(in, n_digest) || n_digest != digest.size()) return std::nullopt;
    if (!in.ReadRaw(digest.data(), static_cast<int>(digest.size()))) return std::nullopt;
    tag = ReadTag(in);
  }
  uint32_t n_payload = 0;
  if (tag != BytesTag(v1::PutData::kPayloadFieldNumber)) return std::nullopt;
  if (!ReadLength(in, n_payload) || n_payload != n_left()) return std::nullopt;
  head.n_payload = n_payload;
  return head;
}

}  // namespace longshelf::kvstore
