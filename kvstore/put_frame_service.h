#pragma once

// The frames of Put that carry payload, read by hand: a parser would copy every byte into a string first. Private to
// the service.

#include <google/protobuf/io/coded_stream.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace longshelf::kvstore {

struct PutDataHead {
  uint32_t object_id = 0;
  uint64_t offset = 0;
  size_t n_payload = 0;  // which are the last bytes of the frame
};

// Reads a PutFrame{data{object_id, offset, payload}} as serializers write it, fields in order and nothing behind the
// payload, up to its payload. Nothing when the frame is anything else, which need not be an error.
std::optional<PutDataHead> ReadPutDataHead(google::protobuf::io::CodedInputStream& in, size_t n_frame_bytes);

}  // namespace longshelf::kvstore
