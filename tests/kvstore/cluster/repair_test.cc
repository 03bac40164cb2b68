// Nodes that look after what they retain together.
#include "repair.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kLater = absl::FromUnixSeconds(4'000'000'000);
const absl::Status kDown = absl::UnavailableError("connection refused");

// A cluster whose nodes repair; a node that is down does nothing either.
class RepairTest : public ::testing::Test {
 protected:
  struct Node {
    std::unique_ptr<ClusterCore> core;
    std::shared_ptr<Repair> repair;
  };

  void Start(size_t n_nodes) {
    cluster_ = std::make_unique<SimulatedCluster>(n_nodes);
    for (size_t i = 0; i < n_nodes; ++i) Begin(i);
  }
  ~RepairTest() override {
    for (Node& node : nodes_) node.core->loop->Abandon();
  }

  // A process that starts.
  void Begin(size_t i) {
    if (nodes_.size() <= i) nodes_.resize(i + 1);
    if (nodes_[i].core != nullptr) nodes_[i].core->loop->Abandon();
    auto core = std::make_unique<ClusterCore>(cluster_->clock, 2, nullptr);
    std::vector<std::shared_ptr<ClusterNode>> members;
    for (const Member& member : cluster_->members) {
      members.push_back(
          std::make_shared<ClusterNode>(member, std::make_unique<Link>(*cluster_->stores.at(member.address))));
    }
    core->view = std::make_shared<const ClusterView>(std::move(members));
    options_.self = SimulatedCluster::NameOf(i);
    auto repair = std::make_shared<Repair>(*core, options_, cluster_->node(i).store(), nullptr);
    repair->Start();
    nodes_[i] = {std::move(core), std::move(repair)};
  }

  void Pass(absl::Duration time, absl::Duration step = absl::Milliseconds(20)) {
    for (absl::Duration passed; passed < time; passed += step) {
      cluster_->clock.Advance(step);
      for (int i = 0; i < 6; ++i) {
        for (size_t n = 0; n < nodes_.size(); ++n) {
          if (cluster_->node(n).down.ok()) nodes_[n].core->loop->RunReady();
        }
        cluster_->Settle();
      }
    }
  }

  std::set<size_t> HoldersOf(const Object& object) {
    std::set<size_t> holders;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const auto held = cluster_->node(i).Read(object.head.key, FingerprintOf(1));
      if (held != nullptr && held->head.object_class == ObjectClass::kParked && held->payload == object.payload) {
        holders.insert(i);
      }
    }
    return holders;
  }
  std::vector<Object> Park(size_t n, uint32_t n_replicas = 2) {
    std::vector<Object> objects;
    std::vector<PutItem> puts;
    for (uint64_t id = 1; id <= n; ++id) {
      objects.push_back(Parked(MakeObject(id, 0, 256, 300), kLater));
      objects.back().head.extent = Hash(id % 17);
      puts.push_back(ItemOf(objects.back(), n_replicas, Ack::kMemoryOne));
    }
    EXPECT_TRUE(cluster_->PutAll(puts).status.ok());
    return objects;
  }

  std::vector<std::byte> bytes_ = std::vector<std::byte>(300);
  RepairOptions options_;
  std::unique_ptr<SimulatedCluster> cluster_;
  std::vector<Node> nodes_;
};

TEST_F(RepairTest, WhatANodeThatIsGoneHadIsCopiedAndNothingElseMoves) {
  Start(5);
  const std::vector<Object> objects = Park(200);
  Pass(absl::Seconds(5));
  std::vector<std::set<size_t>> before;
  for (const Object& object : objects) before.push_back(HoldersOf(object));
  cluster_->node(2).down = kDown;
  Pass(absl::Seconds(55));
  for (size_t i = 0; i < objects.size(); ++i) EXPECT_EQ(HoldersOf(objects[i]), before[i]) << "it may come back";
  Pass(absl::Seconds(20));
  for (size_t i = 0; i < objects.size(); ++i) {
    std::set<size_t> holders = HoldersOf(objects[i]);
    if (!before[i].contains(2)) {
      EXPECT_EQ(holders, before[i]);
      continue;
    }
    EXPECT_EQ(holders.size(), 3u) << "the lost one, when it comes back, and two others";
    for (const size_t node : before[i]) EXPECT_TRUE(holders.contains(node));
  }
  // So another one may go.
  cluster_->node(4).down = kDown;
  for (const Object& object : objects) EXPECT_TRUE(cluster_->Get({WantOf(object)}).objects[0].ok());
}

TEST_F(RepairTest, ANodeThatComesBackEmptyIsFilledAgain) {
  Start(4);
  const std::vector<Object> objects = Park(100);
  cluster_->node(1).down = kDown;
  cluster_->node(1).Restart();
  Pass(absl::Seconds(70));
  cluster_->node(1).down = absl::OkStatus();
  Begin(1);
  Pass(absl::Seconds(10));
  for (const Object& object : objects) {
    const auto places = cluster_->PlacesOf(object.head.extent, 2);
    const std::set<size_t> holders = HoldersOf(object);
    for (const size_t place : places) EXPECT_TRUE(holders.contains(place));
  }
}

TEST_F(RepairTest, ObjectsOfOneCopyGetTheirSecondAndManifestsAThird) {
  Start(5);
  const std::vector<Object> objects = Park(50, /*n_replicas=*/1);
  Object manifest = Parked(MakeObject(1000, 0, 256, 300, ObjectKind::kManifest), kLater);
  manifest.head.extent = Hash(5);
  cluster_->PutAll({ItemOf(manifest)});
  Object cached = MakeObject(2000, 0, 256, 300);
  cluster_->PutAll({ItemOf(cached)});
  options_.interval = absl::Seconds(30);
  for (size_t i = 0; i < 5; ++i) Begin(i);
  Pass(absl::Seconds(40));
  for (const Object& object : objects) EXPECT_EQ(HoldersOf(object).size(), 2u);
  EXPECT_EQ(HoldersOf(manifest).size(), 3u);
  size_t n_cached = 0;
  for (size_t i = 0; i < 5; ++i) n_cached += cluster_->node(i).Read(cached.head.key, FingerprintOf(1)) != nullptr;
  EXPECT_EQ(n_cached, 1u) << "cache is not replicated";
}

TEST_F(RepairTest, CopyingKeepsToItsRate) {
  options_.bytes_per_s = 3000;  // ten objects a second
  Start(3);
  const std::vector<Object> objects = Park(300, 1);
  Begin(0);
  Begin(1);
  Begin(2);
  const auto n_copied = [&] {
    size_t n = 0;
    for (const Object& object : objects) n += HoldersOf(object).size() - 1;
    return n;
  };
  Pass(absl::Seconds(7));
  EXPECT_GT(n_copied(), 3u * 30);
  EXPECT_LT(n_copied(), 3u * 60 + 3);
}

TEST_F(RepairTest, ANodeThatLeavesHandsOverWhatItHas) {
  Start(4);
  const std::vector<Object> objects = Park(150, 1);  // of the last copy too
  bool is_done = false;
  nodes_[3].repair->HandOver([&] { is_done = true; });
  for (int i = 0; i < 1000 && !is_done; ++i) Pass(absl::Milliseconds(20));
  ASSERT_TRUE(is_done);
  cluster_->node(3).down = kDown;
  for (const Object& object : objects) {
    std::set<size_t> holders = HoldersOf(object);
    holders.erase(3);
    EXPECT_GE(holders.size(), 1u);
    EXPECT_TRUE(cluster_->Get({WantOf(object)}).objects[0].ok());
  }
}

TEST_F(RepairTest, ANodeThatLeavesWaitsForOneThatIsRestarting) {
  Start(2);
  const std::vector<Object> objects = Park(50, 1);
  cluster_->node(1).down = kDown;
  bool is_done = false;
  nodes_[0].repair->HandOver([&] { is_done = true; });
  Pass(absl::Seconds(10));
  EXPECT_FALSE(is_done) << "nobody has taken anything";
  cluster_->node(1).down = absl::OkStatus();
  for (int i = 0; i < 1000 && !is_done; ++i) Pass(absl::Milliseconds(20));
  ASSERT_TRUE(is_done);
  for (const Object& object : objects) EXPECT_TRUE(HoldersOf(object).contains(1));
}

TEST_F(RepairTest, TheLastNodeDoesNotSayThatOthersHaveWhatItHas) {
  Start(2);
  Park(50);
  cluster_->node(1).down = kDown;
  Pass(absl::Seconds(70));  // nobody counts on it any more
  bool is_done = false;
  nodes_[0].repair->HandOver([&] { is_done = true; });
  Pass(absl::Seconds(10));
  EXPECT_FALSE(is_done);
}

TEST_F(RepairTest, DamageIsMendedFromAnotherCopyWithinAMinuteOfBeingFound) {
  Start(3);
  Pass(absl::Seconds(5));  // the first passes are over
  const std::vector<Object> objects = Park(30);
  for (const Object& object : objects) {
    const size_t holder = *HoldersOf(object).begin();
    Store& store = cluster_->node(holder).store();
    ASSERT_TRUE(store.FlipBitForTest(object.head.key, 9));
    auto reader = store.Get(object.head.key, FingerprintOf(1));
    std::vector<std::byte> bytes(object.payload.size());
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(reader->Read(bytes).code(), absl::StatusCode::kDataLoss);
  }
  for (const Object& object : objects) EXPECT_EQ(HoldersOf(object).size(), 1u);
  Pass(absl::Seconds(5));
  for (const Object& object : objects) EXPECT_EQ(HoldersOf(object).size(), 2u);
}

TEST_F(RepairTest, DamageThatDoesNotEndIsNoReasonToGoOverEverythingAllTheTime) {
  Start(2);
  const std::vector<Object> objects = Park(30);
  Pass(absl::Seconds(5));
  const auto damage = [&](const Object& object) {
    Store& store = cluster_->node(0).store();
    ASSERT_TRUE(store.FlipBitForTest(object.head.key, 9));
    EXPECT_EQ(cluster_->node(0).store().Get(object.head.key, FingerprintOf(1))->Read(bytes_).code(),
              absl::StatusCode::kDataLoss);
  };
  int n_whole = 0;
  for (const Object& object : objects) {
    damage(object);
    Pass(absl::Seconds(2));
    if (HoldersOf(object).size() == 2) ++n_whole;
  }
  EXPECT_GE(n_whole, 2);
  EXPECT_LE(n_whole, 4) << "in a minute";
  Pass(absl::Seconds(25));
  for (const Object& object : objects) EXPECT_EQ(HoldersOf(object).size(), 2u);
}

// As in a rolling restart of memory-only nodes that hand over, and of a cluster that grows meanwhile.
TEST_F(RepairTest, AStoreWithoutMemoryForOneObjectGetsTheOthersAndThatOneSoon) {
  Start(3);
  const std::vector<Object> objects = Park(60, 1);
  std::map<ObjectKey, int> refused;
  for (size_t i = 0; i < 3; ++i) {
    cluster_->node(i).refuse = [&](const PutItem& item) {
      const bool is_full = item.head.key.hash[0] % 4 == 0 && ++refused[item.head.key] <= 2;
      return is_full ? absl::UnavailableError("no memory now") : absl::OkStatus();
    };
  }
  Pass(absl::Seconds(10));
  ASSERT_FALSE(refused.empty());
  for (const Object& object : objects) {
    EXPECT_EQ(HoldersOf(object).size(), refused.contains(object.head.key) ? 1u : 2u);
  }
  Pass(absl::Seconds(25));
  for (const Object& object : objects) EXPECT_EQ(HoldersOf(object).size(), 2u);
}

TEST_F(RepairTest, ARollingReplacementOfAllNodesLosesNothing) {
  Start(4);
  const std::vector<Object> objects = Park(100);
  for (size_t i = 0; i < 4; ++i) {
    bool is_done = false;
    nodes_[i].repair->HandOver([&] { is_done = true; });
    for (int n = 0; n < 1000 && !is_done; ++n) Pass(absl::Milliseconds(20));
    ASSERT_TRUE(is_done);
    cluster_->node(i).down = kDown;
    cluster_->node(i).Restart();
    Pass(absl::Seconds(5));
    cluster_->node(i).down = absl::OkStatus();
    Begin(i);
    Pass(absl::Seconds(5));
    for (const Object& object : objects) {
      ASSERT_TRUE(cluster_->Get({WantOf(object)}).objects[0].ok()) << "after node " << i;
    }
  }
}

}  // namespace
}  // namespace longshelf::kvstore
