#pragma once

// The frames of Put that carry payload, read by hand: a parser would copy every byte into a string first. Private to
// the service.

#include <google/protobuf/io/coded_stream.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kvstore/object.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {

inline constexpr int kMaxOpensPerFrame = 64;

struct PutDataHead {
  uint32_t object_id = 0;
  uint64_t offset = 0;
  std::optional<Digest> digest;  // with the last bytes of the object
  size_t n_payload = 0;          // which are the last bytes of the frame
};

using PutOpens = google::protobuf::RepeatedPtrField<v1::PutOpen>;

// Reads a PutFrame{opens, data{object_id, offset, xxh3_128, payload}} as serializers write it, fields in order and
// nothing behind the payload, up to its payload; the opens are added to `opens`. Nothing when the frame is anything
// else, which need not be an error.
std::optional<PutDataHead> ReadPutDataHead(google::protobuf::io::CodedInputStream& in, size_t n_frame_bytes,
                                           PutOpens* opens);

}  // namespace longshelf::kvstore
