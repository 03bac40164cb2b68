// Objects that are sent from where they lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kvstore/store.h"
#include "objects.h"
#include "page_arena.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1000000;
const absl::Time kNow = absl::FromUnixSeconds(1700000000);

class StoreLendTest : public ::testing::Test {
 protected:
  void Put(const Object& object) {
    auto opened = store_->Open(object.head, kNow);
    ASSERT_TRUE(opened.ok()) << opened.status();
    auto& reservation = std::get<Store::Reservation>(*opened);
    ASSERT_TRUE(reservation.Append(0, object.payload).ok());
    ASSERT_TRUE(store_->Commit(std::move(reservation), kNow).ok());
  }
  Store::Reader Read(const Object& object) {
    auto reader = store_->Get(object.head.key, FingerprintOf(1));
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }
  // The reader is gone when this returns.
  std::shared_ptr<const void> LendWhole(const Object& object, Store::Reader::Runs& runs) {
    Store::Reader reader = Read(object);
    EXPECT_TRUE(reader.Lend(object.payload.size(), runs).ok());
    return reader.keeper();
  }
  static std::vector<std::byte> Joined(const Store::Reader::Runs& runs) {
    std::vector<std::byte> bytes;
    for (const auto& run : runs) bytes.insert(bytes.end(), run.begin(), run.end());
    return bytes;
  }
  uint64_t UsedBytes() { return store_->Stats(kNow).used_bytes; }

  std::unique_ptr<Store> store_ = *Store::Create({.capacity_bytes = 4 << 20});
};

TEST_F(StoreLendTest, WhatIsLentIsTheObjectHoweverItIsCutAndWhereverItLies) {
  // Every other one goes: what comes then lies in pieces.
  for (uint64_t id = 0; id < 20; ++id) Put(MakeObject(id, kRoot, 256, 5 * kPageBytes));
  for (uint64_t id = 0; id < 20; id += 2) store_->Drop(std::vector{BlockKeyOf(id)});
  const Object object = MakeObject(100, kRoot, 256, 30 * kPageBytes + 123);
  Put(object);
  for (const size_t n_each : {size_t{1000}, kPageBytes, 7 * kPageBytes + 1, object.payload.size()}) {
    Store::Reader reader = Read(object);
    Store::Reader::Runs runs;
    while (reader.offset() < object.payload.size()) {
      ASSERT_TRUE(reader.Lend(std::min<size_t>(n_each, object.payload.size() - reader.offset()), runs).ok());
    }
    EXPECT_EQ(Joined(runs), object.payload) << n_each;
  }
}

TEST_F(StoreLendTest, WhatIsLentStaysAndIsPaidForUntilItsKeeperGoes) {
  const Object object = MakeObject(1, kRoot, 256, 100000);
  Put(object);
  Store::Reader::Runs runs;
  std::shared_ptr<const void> keeper = LendWhole(object, runs);
  store_->Drop(std::vector{object.head.key});
  EXPECT_EQ(UsedBytes(), Store::ChargeOf(object.payload.size()));
  for (uint64_t id = 10; id < 60; ++id) Put(MakeObject(id, kRoot, 256, 100000));  // more than fits
  EXPECT_EQ(Joined(runs), object.payload);
  store_->DropNamespace("ns");
  keeper.reset();
  EXPECT_EQ(UsedBytes(), 0u);
}

TEST_F(StoreLendTest, AKeeperMayOutliveTheStore) {
  const Object object = MakeObject(1, kRoot, 256, 100000);
  Put(object);
  Store::Reader::Runs runs;
  std::shared_ptr<const void> keeper = LendWhole(object, runs);
  store_.reset();
  EXPECT_EQ(Joined(runs), object.payload);
}

TEST_F(StoreLendTest, AFlippedBitIsSeenWithTheLastBytesAndTheObjectIsQuarantined) {
  const Object object = MakeObject(1, kRoot, 256, 100000);
  Put(object);
  ASSERT_TRUE(store_->FlipBitForTest(object.head.key, 4321));
  Store::Reader reader = Read(object);
  Store::Reader::Runs runs;
  EXPECT_TRUE(reader.Lend(60000, runs).ok());
  EXPECT_EQ(reader.Lend(40000, runs).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->Get(object.head.key, FingerprintOf(1)).status().code(), absl::StatusCode::kNotFound);
}

TEST(CopyToPages, CopiesTheseBytesAndNoOthers) {
  const std::vector<std::byte> source = RandomBytes(1, 1000);
  for (size_t from = 0; from < 70; ++from) {
    for (const size_t n : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{200}, size_t{777}}) {
      std::vector<std::byte> target(1000, std::byte{0xaa});
      std::vector<std::byte> expected = target;
      std::copy_n(source.begin() + 3, n, expected.begin() + static_cast<ptrdiff_t>(from));
      CopyToPages(std::span(target).subspan(from, n), std::span(source).subspan(3, n));
      EndPageCopies();
      ASSERT_EQ(target, expected) << from << " " << n;
    }
  }
}

}  // namespace
}  // namespace longshelf::kvstore
