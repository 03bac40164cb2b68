#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "kvstore/wire_service.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

TEST(Wire, HeadsOutsideTheLimitsAreRefusedWhoeverSendsThem) {
  ObjectHead good = MakeObject(1, 2, 256, 100).head;
  v1::ListReply list;
  HeadToWire(good, list.add_heads());
  ASSERT_TRUE(ListFromWire(list).ok());
  v1::ObjectHead& wire = *list.mutable_heads(0);
  const auto refuses = [&](const char* what) {
    EXPECT_EQ(HeadFromWire(wire).status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_EQ(ListFromWire(list).status().code(), absl::StatusCode::kInvalidArgument) << what;
    HeadToWire(good, &wire);
  };
  for (const uint64_t n_bytes : {uint64_t{0}, kMaxPayloadBytes + 1, std::numeric_limits<uint64_t>::max()}) {
    wire.set_payload_bytes(n_bytes);
    refuses("payload_bytes");
  }
  for (const uint32_t depth : {uint32_t{0}, kMaxDepthTokens + 1}) {
    wire.set_depth_tokens(depth);
    refuses("depth_tokens");
  }
  for (const size_t n_bytes : {size_t{0}, kMaxNamespaceBytes + 1}) {
    wire.set_namespace_id(std::string(n_bytes, 'n'));
    refuses("namespace_id");
  }
}

}  // namespace
}  // namespace longshelf::kvstore
