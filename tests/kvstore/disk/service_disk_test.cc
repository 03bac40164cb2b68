// What a client is told when the disk does not do what was asked of it.
#include <gtest/gtest.h>

#include <future>

#include "disk_fixture.h"
#include "memory_file_system.h"
#include "service_fixture.h"

namespace longshelf::kvstore {
namespace {

using Operation = disk::MemoryFileSystem::Operation;
constexpr uint64_t kRoot = 1u << 30;

class ServiceDiskTest : public ServiceFixture {
 protected:
  // Before the files: the store writes until it is gone.
  void TearDown() override {
    server_.reset();
    store_.reset();
  }
  void StartWithDisk(const ServerOptions& options = {}) {
    auto store = Store::Create({.capacity_bytes = 8 << 20}, *disk::OpenTier(disk::SmallDisk(), files_, clock_));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    server_ = *Server::Start(options, *store_, clock_, metrics_);
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

TEST_F(ServiceDiskTest, WhoDoesNotWaitForAHungDiskHoldsNoStreamAndHisAnswerMayComeAfterTheServer) {
  StartWithDisk({.streams_max = 1});
  std::promise<void> released;
  files_.SetFault([release = released.get_future().share()](Operation operation) {
    if (operation == Operation::kSync) release.wait();
    return absl::OkStatus();
  });
  for (uint64_t id = 1; id <= 3; ++id) {
    const Object object = Parked(MakeObject(id, kRoot, 256, 20000), clock_.WallNow() + absl::Hours(1));
    const PutItem items[] = {ItemOf(object, 1, Ack::kDurableOne)};
    // The client knows first that a stream is over.
    const absl::Time begun = clock_.Now();
    const auto is_to_retry = [&](const absl::Status& status) {
      return absl::IsResourceExhausted(status) && clock_.Now() < begun + absl::Minutes(1);
    };
    absl::Status put;
    do put = client_->PutMany(items, absl::Milliseconds(100))[0].status();
    while (is_to_retry(put));
    EXPECT_EQ(put.code(), absl::StatusCode::kDeadlineExceeded);
    absl::StatusOr<std::vector<std::byte>> got;
    do got = Get(object);
    while (is_to_retry(got.status()));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, object.payload);
  }
  client_.Close();
  server_.reset();
  released.set_value();
  store_.reset();
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
