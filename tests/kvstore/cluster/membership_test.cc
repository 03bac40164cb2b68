// Members that come and go under a name.
#include "membership.h"

#include <gtest/gtest.h>

#include <vector>

#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kLater = absl::FromUnixSeconds(4'000'000'000);
const absl::Status kDown = absl::UnavailableError("connection refused");

class MembershipTest : public ::testing::Test {
 protected:
  // What the name service says now.
  void Name(const std::vector<size_t>& nodes) {
    std::vector<Member> members;
    for (const size_t i : nodes) members.push_back({.address = SimulatedCluster::NameOf(i)});
    cluster_.client->SetMembers(members, kLeaveAfter);
    cluster_.Settle();
  }
  Object ParkedIn(uint64_t extent) {
    Object object = Parked(MakeObject(++n_objects_, 0, 256, 100), kLater);
    object.head.extent = Hash(extent);
    return object;
  }
  absl::Status Park(const Object& object) {
    return cluster_.PutAll({ItemOf(object, 2, Ack::kMemoryAll)}).outcomes.at(0).status();
  }

  SimulatedCluster cluster_{3};
  uint64_t n_objects_ = 0;
};

TEST_F(MembershipTest, AnAnswerThatLeavesOutStoresPromisesNoLess) {
  Name({0, 1, 2});
  Name({1});
  cluster_.node(0).down = kDown;
  cluster_.node(2).down = kDown;
  for (uint64_t extent = 0; extent < 10; ++extent) {
    EXPECT_EQ(Park(ParkedIn(extent)).code(), absl::StatusCode::kUnavailable) << "one is not two";
  }
  const Object once = ParkedIn(50);
  ASSERT_TRUE(cluster_.PutAll({ItemOf(once, 1, Ack::kMemoryAll)}).outcomes.at(0).ok());
  TouchQuery touch{.keys = {{once.head.key, once.head.extent}}, .retain_until = kLater, .ack = Ack::kMemoryAll};
  touch.n_replicas = 2;
  EXPECT_FALSE(cluster_.Touch(touch)->retained[0]);
  cluster_.Pass(kLeaveAfter, absl::Seconds(1));
  EXPECT_TRUE(Park(ParkedIn(1)).ok()) << "it is the only one now";
  EXPECT_TRUE(cluster_.Touch(touch)->retained[0]);
}

TEST_F(MembershipTest, WhatIsDeletedMustReachWhoWasLeftOut) {
  Name({0, 1, 2});
  Name({1, 2});
  cluster_.node(0).down = kDown;
  const auto drop = [&] {
    std::optional<DropResult> result;
    cluster_.client->DropNamespace({.id = "ns"}, absl::Seconds(1),
                                   [&](const absl::StatusOr<DropResult>& dropped) { result = *dropped; });
    cluster_.PassUntil([&] { return result.has_value(); });
    return result->n_nodes_missed;
  };
  EXPECT_EQ(drop(), 1u);
  cluster_.node(0).down = absl::OkStatus();
  cluster_.Pass(absl::Minutes(1), absl::Seconds(1));
  EXPECT_EQ(drop(), 0u);
  EXPECT_GT(cluster_.node(0).n_namespace_drops, 0);
}

TEST_F(MembershipTest, WhatAStoreHasThatWasLeftOutIsFound) {
  std::vector<Object> objects;
  for (uint64_t extent = 0; extent < 20; ++extent) {
    objects.push_back(ParkedIn(extent));
    ASSERT_TRUE(Park(objects.back()).ok());
  }
  Name({0, 1, 2});
  Name({1});
  for (const Object& object : objects) EXPECT_TRUE(cluster_.Get({WantOf(object)}).objects[0].ok());
}

// As pods that are replaced one after another, each under an address of its own.
TEST_F(MembershipTest, TheLivingTakeAllWhileManyThatAreGoneStillCount) {
  Name({0, 1, 2});
  for (size_t i = 3; i < 6; ++i) cluster_.Join(i);
  Name({3, 4, 5});
  for (size_t i = 0; i < 3; ++i) cluster_.node(i).down = kDown;
  for (uint64_t extent = 0; extent < 50; ++extent) {
    const Object object = ParkedIn(extent);
    EXPECT_TRUE(Park(object).ok()) << extent;
    EXPECT_TRUE(cluster_.Get({WantOf(object)}).objects[0].ok()) << extent;
  }
}

TEST_F(MembershipTest, WhoComesBackInTimeHasNeverLeft) {
  Name({0, 1, 2});
  for (int i = 0; i < 3; ++i) {
    Name({1, 2});
    cluster_.Pass(0.9 * kLeaveAfter, absl::Seconds(1));
    Name({0, 1, 2});
    cluster_.Pass(absl::Seconds(1));
  }
  cluster_.Pass(2 * kLeaveAfter, absl::Seconds(1));
  const Object object = ParkedIn(1);
  EXPECT_TRUE(cluster_.PutAll({ItemOf(object, 3, Ack::kMemoryAll)}).outcomes.at(0).ok());
  for (size_t i = 0; i < 3; ++i) EXPECT_NE(cluster_.node(i).Read(object.head.key, FingerprintOf(1)), nullptr);
}

// A client that counts itself.
class Counted final : public Client {
 public:
  explicit Counted(int& n) : n_(n) { ++n_; }
  ~Counted() override { --n_; }
  void Lookup(const LookupQuery&, absl::Duration, Done<LookupResult>) override {}
  std::shared_ptr<GetCall> Get(GetRequest, GetEvents) override { return nullptr; }
  std::shared_ptr<PutCall> Put(absl::Duration, PutEvents) override { return nullptr; }
  void Touch(TouchQuery, absl::Duration, Done<TouchResult>) override {}
  void Drop(std::vector<PlacedKey>, absl::Duration, Done<DropResult>) override {}
  void DropCache(std::vector<PlacedKey>, absl::Duration, Done<DropResult>) override {}
  void DropNamespace(NamespaceDrop, absl::Duration, Done<DropResult>) override {}
  void List(ListQuery, absl::Duration, Done<ListResult>) override {}
  void Stats(absl::Duration, Done<StoreStats>) override {}

 private:
  int& n_;
};

TEST(Membership, WhoHasLeftIsForgottenOnceNobodyUsesHim) {
  ManualClock clock;
  ClusterCore core(clock, 2, nullptr);
  int n_clients = 0;
  Membership membership(core, [&](const Member&) { return std::make_unique<Counted>(n_clients); });
  const auto pass = [&](absl::Duration time) {
    clock.Advance(time);
    core.loop->RunReady();
  };
  std::shared_ptr<const ClusterView> kept;
  for (int i = 0; i < 100; ++i) {
    membership.Use({{.address = absl::StrCat("10.0.0.", i, ":7400")}}, kLeaveAfter);
    if (i == 50) kept = core.view;
    pass(absl::Minutes(1));
  }
  EXPECT_LE(n_clients, 22) << "those of ten minutes, and those of the view that is kept";
  kept.reset();
  pass(absl::Minutes(1));
  EXPECT_LE(n_clients, 11);
  pass(kLeaveAfter);
  EXPECT_EQ(n_clients, 1);
  EXPECT_EQ(core.view->nodes.size(), 1u);
  core.loop->Abandon();
}

}  // namespace
}  // namespace longshelf::kvstore
