#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "get_client_receiver.h"
#include "kvstore/wire_service.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

absl::Status Give(GetReceiver& receiver, const std::string& bytes) {
  grpc::Slice slice(bytes);
  grpc::ByteBuffer frame(&slice, 1);
  return receiver.OnFrame(frame);
}

TEST(GetReceiver, DataThatClaimsToGoOnBehindItsFrameIsMalformed) {
  const Object object = MakeObject(1, 0, 256, 40);
  const std::vector<GetItem> items = {{object.head.key, object.head.payload_bytes}};
  v1::GetFrame head;
  HeadToWire(object.head, head.mutable_head());
  v1::GetFrame data;
  data.mutable_data()->set_payload(object.payload.data(), object.payload.size());
  data.mutable_data()->set_last(true);
  const std::string sent = data.SerializeAsString();
  // The length of what is in the frame stands behind the first tag.
  for (const std::string& length :
       {std::string(1, static_cast<char>(sent[1] + 1)), std::string("\xff\xff\xff\xff\x0f")}) {
    size_t n_delivered = 0;
    GetReceiver receiver(FingerprintOf(1), items, [&](size_t, absl::StatusOr<FetchedObject>) { ++n_delivered; });
    ASSERT_TRUE(Give(receiver, head.SerializeAsString()).ok());
    EXPECT_FALSE(Give(receiver, sent.substr(0, 1) + length + sent.substr(2)).ok());
    EXPECT_EQ(n_delivered, 0u);
  }
  size_t n_delivered = 0;
  GetReceiver receiver(FingerprintOf(1), items, [&](size_t, absl::StatusOr<FetchedObject>) { ++n_delivered; });
  EXPECT_TRUE(Give(receiver, head.SerializeAsString()).ok() && Give(receiver, sent).ok());
  EXPECT_EQ(n_delivered, 1u);
}

}  // namespace
}  // namespace longshelf::kvstore
