// Namespaces that are deleted for good.
#include "retired_namespaces.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/namespace_id.h"
#include "kvstore/store.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
constexpr uint64_t kGeneration = 1'700'000'000'000;
constexpr uint64_t kRoot = 1'000'000;

TEST(RetiredNamespaces, AreForgottenInTheirTimeAndWhenThereAreTooMany) {
  RetiredNamespaces retired(/*n_names_max=*/3);
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(retired.Add(absl::StrCat("t", i), 7, kNow, kNow + absl::Hours(i + 1)));
    EXPECT_LE(retired.size(), 3u);
  }
  EXPECT_FALSE(retired.Covers("t6", kNow));
  EXPECT_TRUE(retired.Covers("t7", kNow));
  EXPECT_TRUE(retired.Covers("t7:u1", kNow));
  EXPECT_FALSE(retired.Covers(NamespaceIdOf("t7", 7), kNow));
  EXPECT_FALSE(retired.Covers("t7", kNow + absl::Hours(8)));
  EXPECT_FALSE(retired.Add("later", 7, kNow + absl::Hours(9), kNow + absl::Hours(20)));
  EXPECT_EQ(retired.size(), 2u) << "t9, and the new one";
}

TEST(RetiredNamespaces, ARepetitionIsKnownOnceTheDiskHasForgottenThem) {
  RetiredNamespaces retired;
  const auto add = [&](uint64_t generation) { return retired.Add("alice", generation, kNow, kNow + absl::Hours(1)); };
  EXPECT_FALSE(add(7));
  EXPECT_FALSE(add(7)) << "the disk may have failed";
  retired.SetGone("alice", 7);
  EXPECT_TRUE(add(7));
  EXPECT_TRUE(add(6)) << "an earlier deletion, heard of late";
  EXPECT_FALSE(add(8));
  retired.SetGone("alice", 7);
  EXPECT_FALSE(add(8));
}

class RetiringTest : public ::testing::Test {
 protected:
  absl::StatusOr<Store::Reservation> Open(uint64_t id, const std::string& namespace_id, absl::Time now = kNow) {
    Object object = MakeObject(id, kRoot, 256, 5000);
    object.head.namespace_id = namespace_id;
    auto opened = store_->Open(object.head, now);
    if (!opened.ok()) return opened.status();
    auto reservation = std::get<Store::Reservation>(*std::move(opened));
    if (absl::Status status = reservation.Append(0, object.payload); !status.ok()) return status;
    return reservation;
  }
  absl::Status Put(uint64_t id, const std::string& namespace_id, absl::Time now = kNow) {
    auto reservation = Open(id, namespace_id, now);
    if (!reservation.ok()) return reservation.status();
    return store_->Commit(*std::move(reservation), now).status();
  }
  uint64_t NumberOf(const std::string& namespace_id) { return store_->StatsOf(namespace_id, kNow).n_objects; }

  const NamespaceDrop deletion_{.id = "alice", .before_generation = kGeneration, .retire = true};
  std::unique_ptr<Store> store_ = *Store::Create({.capacity_bytes = 64 << 20});
};

TEST_F(RetiringTest, DropsANameAndItsUsersOfEarlierGenerationsAndNothingElse) {
  const std::vector<std::string> gone = {"alice", NamespaceIdOf("alice", kGeneration - 1), "alice:u1",
                                         NamespaceIdOf("alice:u2", 12345)};
  const std::vector<std::string> kept = {"alice2",
                                         "alice2:u1",
                                         "alice-b",
                                         "bob",
                                         NamespaceIdOf("alice", kGeneration),
                                         NamespaceIdOf("alice:u1", kGeneration + 1)};
  uint64_t id = 0;
  for (const auto* names : {&gone, &kept}) {
    for (const std::string& name : *names) {
      for (int i = 0; i < 100; ++i) ASSERT_TRUE(Put(id++, name).ok());
    }
  }
  EXPECT_EQ(store_->DropGenerations(deletion_, kNow).n_dropped, 100 * gone.size());
  for (const std::string& name : gone) EXPECT_EQ(NumberOf(name), 0u) << name;
  for (const std::string& name : kept) EXPECT_EQ(NumberOf(name), 100u) << name;
  EXPECT_EQ(store_->DropGenerations(deletion_, kNow).n_dropped, 0u);
}

TEST_F(RetiringTest, NothingOfWhatIsRetiredIsTakenForADay) {
  ASSERT_TRUE(Put(1, "alice:u1").ok());
  auto under_way = Open(2, "alice");
  ASSERT_TRUE(under_way.ok());
  store_->DropGenerations(deletion_, kNow);
  EXPECT_TRUE(IsNamespaceDeleted(store_->Commit(*std::move(under_way), kNow).status())) << "it was opened before";
  EXPECT_TRUE(IsNamespaceDeleted(Put(1, "alice:u1")));
  EXPECT_TRUE(IsNamespaceDeleted(Put(3, NamespaceIdOf("alice", kGeneration - 1), kNow + absl::Hours(23))));
  EXPECT_EQ(store_->Stats(kNow).n_objects, 0u);
  EXPECT_EQ(store_->Stats(kNow).reserved_bytes, 0u);
  EXPECT_TRUE(Put(4, NamespaceIdOf("alice", kGeneration)).ok());
  EXPECT_TRUE(Put(5, NamespaceIdOf("alice:u1", kGeneration)).ok());
  EXPECT_TRUE(Put(6, "alice2").ok());
  EXPECT_TRUE(Put(7, "alice", kNow + absl::Hours(25)).ok()) << "by then nobody has such objects any more";
}

TEST_F(RetiringTest, WhatIsDroppedAndNotRetiredMayComeBack) {
  ASSERT_TRUE(Put(1, "alice").ok());
  NamespaceDrop drop = deletion_;
  drop.retire = false;
  EXPECT_EQ(store_->DropGenerations(drop, kNow).n_dropped, 1u);
  EXPECT_TRUE(Put(1, "alice").ok());
  EXPECT_EQ(store_->DropNamespace("alice").n_dropped, 1u);
  EXPECT_TRUE(Put(1, "alice").ok());
}

}  // namespace
}  // namespace longshelf::kvstore
