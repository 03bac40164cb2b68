// What a client is told when the disk does not do what was asked of it.
#include <gtest/gtest.h>

#include "disk_fixture.h"
#include "memory_file_system.h"
#include "service_fixture.h"

namespace longshelf::kvstore {
namespace {

using Operation = disk::MemoryFileSystem::Operation;
constexpr uint64_t kRoot = 1u << 30;

class ServiceDiskTest : public ServiceFixture {
 protected:
  void StartWithDisk() {
    auto store = Store::Create({.capacity_bytes = 8 << 20}, *disk::OpenTier(disk::SmallDisk(), files_, clock_));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    server_ = *Server::Start({}, *store_, clock_, metrics_);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    client_ = Connect();
  }

  disk::MemoryFileSystem files_;
};

TEST_F(ServiceDiskTest, ARemovalIsAnsweredWhenTheDiskHasWrittenIt) {
  StartWithDisk();
  const Object object = MakeObject(1, kRoot, 256, 20000);
  ASSERT_TRUE(Put(Parked(object, clock_.WallNow() + absl::Hours(1))).ok());
  const PlacedKey keys[] = {{object.head.key, object.head.extent}};
  EXPECT_EQ(client_->Drop(keys, kTimeout)->n_dropped, 1u);
  EXPECT_TRUE(client_->DropNamespace({.id = "ns"}, kTimeout).ok());
  files_.SetFault([](Operation operation) {
    return operation == Operation::kSync ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(client_->Drop(keys, kTimeout).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client_->DropNamespace({.id = "ns"}, kTimeout).status().code(), absl::StatusCode::kUnavailable);
  const std::vector<PlacedKey> too_many(kMaxKeysPerCall + 1, keys[0]);
  EXPECT_EQ(client_->Drop(too_many, kTimeout).status().code(), absl::StatusCode::kInvalidArgument);
}

// The other replicas go by it.
TEST_F(ServiceDiskTest, DamageOfTheDiskShowsInTheStatsThatOthersSee) {
  StartWithDisk();
  const Object object = Parked(MakeObject(1, kRoot, 256, 20000), clock_.WallNow() + absl::Hours(1));
  const PutItem items[] = {ItemOf(object, 1, Ack::kDurableOne)};
  ASSERT_TRUE(client_->PutMany(items, kTimeout)[0].ok());
  // Memory has it no more then.
  server_.reset();
  store_.reset();
  StartWithDisk();
  EXPECT_EQ(client_->Stats(kTimeout)->n_quarantined, 0u);
  files_.SetFault([](Operation operation) {
    return operation == Operation::kRead ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  ASSERT_EQ(Get(object).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(client_->Stats(kTimeout)->n_quarantined, 1u);
}

}  // namespace
}  // namespace longshelf::kvstore
