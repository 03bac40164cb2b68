// What a cluster does when some of its nodes do not do what they should.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kLater = absl::FromUnixSeconds(4'000'000'000);
const absl::Status kDown = absl::UnavailableError("connection refused");

// A parked session of three extents on two nodes each.
class ClusterFaults : public ::testing::Test {
 protected:
  void Park(SimulatedCluster& cluster) {
    std::vector<PutItem> puts;
    for (const Object& block : chain_.blocks) puts.push_back(PutOf(Parked(block, kLater), 2, Ack::kMemoryAll));
    const auto put = cluster.PutAll(puts);
    ASSERT_TRUE(put.status.ok()) << put.status;
    for (const auto& [index, outcome] : put.outcomes) ASSERT_TRUE(outcome.ok()) << outcome.status();
  }
  void ExpectWhole(const SimulatedCluster::Got& got) {
    for (size_t i = 0; i < chain_.blocks.size(); ++i) {
      ASSERT_TRUE(got.objects[i].ok()) << i << ": " << got.objects[i].status();
      ASSERT_EQ(got.objects[i]->payload, chain_.blocks[i].payload);
    }
  }
  std::vector<GetItem> Wants() const {
    std::vector<GetItem> wants;
    for (const Object& block : chain_.blocks) wants.push_back(WantOf(block));
    return wants;
  }
  LookupQuery Query() const { return {.fingerprint = FingerprintOf(1), .root = chain_.root, .chain = chain_.keys}; }

  const ChainObjects chain_ = MakeChain(7, 700, 500);
};

TEST_F(ClusterFaults, AParkedSessionIsWholeWhicheverNodeIsLost) {
  for (size_t lost = 0; lost < 5; ++lost) {
    SimulatedCluster cluster(5);
    Park(cluster);
    cluster.node(lost).down = kDown;
    const auto found = cluster.Lookup(Query());
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->n_present, 700u) << lost;
    ExpectWhole(cluster.Get(Wants()));
  }
}

TEST_F(ClusterFaults, ANodeThatComesBackEmptyIsPassedOver) {
  SimulatedCluster cluster(3);
  Park(cluster);
  cluster.node(0).Restart();
  EXPECT_EQ(cluster.Lookup(Query())->n_present, 700u);
  ExpectWhole(cluster.Get(Wants()));
}

TEST_F(ClusterFaults, ANodeThatHangsIsRacedAndThenLeftAlone) {
  SimulatedCluster cluster(5);
  Park(cluster);
  for (int i = 0; i < 20; ++i) ExpectWhole(cluster.Get(Wants()));  // how long it usually takes
  const size_t hung = cluster.PlacesOf(chain_.root, 1)[0];
  cluster.node(hung).latency = absl::Hours(1);
  auto got = cluster.Get(Wants());
  ExpectWhole(got);
  EXPECT_LE(got.took, absl::Milliseconds(200));
  const auto lookup_begun = cluster.clock.Now();
  EXPECT_EQ(cluster.Lookup(Query())->n_present, 700u);
  EXPECT_LE(cluster.clock.Now() - lookup_begun, absl::Milliseconds(200));
  cluster.Get(Wants());
  const int n_before = cluster.node(hung).n_gets;
  got = cluster.Get(Wants());
  EXPECT_EQ(cluster.node(hung).n_gets, n_before) << "it is not asked for now";
  EXPECT_LE(got.took, absl::Milliseconds(5));
  // When it is well again it is used again.
  cluster.node(hung).latency = absl::ZeroDuration();
  cluster.Pass(absl::Seconds(30), absl::Milliseconds(50));
  for (int i = 0; i < 3; ++i) ExpectWhole(cluster.Get(Wants()));
  EXPECT_GT(cluster.node(hung).n_gets, n_before);
}

TEST_F(ClusterFaults, ANodeThatDiesInTheMiddleOfAReadIsReplacedWithoutAGap) {
  SimulatedCluster cluster(5);
  Park(cluster);
  const size_t first = cluster.PlacesOf(chain_.root, 1)[0];
  cluster.node(first).object_latency = absl::Milliseconds(1);
  int n_until = 100;
  cluster.node(first).before_get = [&] {
    if (--n_until == 0) cluster.node(first).down = kDown;
  };
  ExpectWhole(cluster.Get(Wants()));
  EXPECT_LT(n_until, 0 + 1);
}

TEST_F(ClusterFaults, DamageOnOneNodeIsReadFromAnother) {
  SimulatedCluster cluster(4);
  Park(cluster);
  for (const size_t i : {0, 17, 255, 256, 699}) {
    const size_t first = cluster.PlacesOf(chain_.blocks[i].head.extent, 1)[0];
    ASSERT_TRUE(cluster.node(first).store().FlipBitForTest(chain_.blocks[i].head.key, 5));
  }
  ExpectWhole(cluster.Get(Wants()));
}

TEST_F(ClusterFaults, WhatNobodyHasIsSaidOncePerObjectAndTheRestIsThere) {
  SimulatedCluster cluster(4);
  Park(cluster);
  std::vector<PlacedKey> gone;
  for (const size_t i : {5, 6, 300}) gone.push_back({chain_.blocks[i].head.key, chain_.blocks[i].head.extent});
  ASSERT_TRUE(cluster.Drop(gone).ok());
  auto got = cluster.Get(Wants());
  EXPECT_TRUE(got.status.ok()) << got.status;
  for (size_t i = 0; i < got.objects.size(); ++i) {
    const bool is_gone = i == 5 || i == 6 || i == 300;
    EXPECT_EQ(got.objects[i].status().code(), is_gone ? absl::StatusCode::kNotFound : absl::StatusCode::kOk) << i;
  }
  // With nobody reachable it is another matter.
  for (size_t i = 0; i < 4; ++i) cluster.node(i).down = kDown;
  got = cluster.Get(Wants());
  for (const auto& object : got.objects) EXPECT_EQ(object.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(cluster.Lookup(Query()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(cluster.List({}).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClusterFaults, APutGoesOnToTheNextNodeAndFailsWhenTooFewAreLeft) {
  SimulatedCluster cluster(4);
  cluster.node(0).down = kDown;
  Park(cluster);
  cluster.node(1).down = kDown;
  cluster.node(2).down = kDown;
  auto put = cluster.PutAll({PutOf(Parked(chain_.blocks[0], kLater), 2, Ack::kMemoryAll), PutOf(chain_.blocks[1], 2)});
  EXPECT_EQ(put.outcomes.at(0).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(put.outcomes.at(1).ok()) << "one node is enough for a cache object: " << put.outcomes.at(1).status();
  cluster.node(3).down = kDown;
  cluster.Pass(absl::Seconds(1), absl::Milliseconds(100));
  put = cluster.PutAll({PutOf(chain_.blocks[2])});
  EXPECT_EQ(put.outcomes.at(0).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClusterFaults, ANodeWithoutRoomIsPassedOver) {
  SimulatedCluster cluster(4);
  const size_t full = cluster.PlacesOf(chain_.root, 1)[0];
  cluster.node(full).refuse = [](const PutItem&) { return absl::ResourceExhaustedError("the parked share is full"); };
  Park(cluster);
  EXPECT_EQ(cluster.node(full).n_objects(), 0u);
  for (size_t i = 0; i < 4; ++i) {
    cluster.node(i).refuse = [](const PutItem&) { return absl::ResourceExhaustedError("the parked share is full"); };
  }
  const auto put = cluster.PutAll({PutOf(Parked(MakeObject(1, 0, 256, 10), kLater), 2, Ack::kMemoryAll)});
  EXPECT_EQ(put.outcomes.at(0).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ClusterFaults, ANodeThatDiesWhileItTakesAPutLosesNothing) {
  SimulatedCluster cluster(4);
  int n_until = 60;
  for (size_t i = 0; i < 4; ++i) {
    cluster.node(i).refuse = [&, i](const PutItem&) {
      if (--n_until == 0) cluster.node(i).down = kDown;
      return absl::OkStatus();
    };
  }
  Park(cluster);
  EXPECT_LT(n_until, 0);
  EXPECT_EQ(cluster.Lookup(Query())->n_present, 700u);
  ExpectWhole(cluster.Get(Wants()));
}

TEST_F(ClusterFaults, EveryCallEndsByItsDeadlineWhenAllNodesHang) {
  SimulatedCluster cluster(3);
  for (size_t i = 0; i < 3; ++i) cluster.node(i).latency = absl::Hours(1);
  EXPECT_LE(cluster.Get(Wants(), absl::Seconds(2)).took, absl::Milliseconds(2001));
  EXPECT_LE(cluster.PutAll({PutOf(chain_.blocks[0])}, absl::Seconds(2)).took, absl::Milliseconds(2001));
  const absl::Time begun = cluster.clock.Now();
  EXPECT_FALSE(cluster.Lookup(Query(), absl::Milliseconds(300)).ok());
  EXPECT_LE(cluster.clock.Now() - begun, absl::Milliseconds(301));
}

TEST_F(ClusterFaults, WhoGoesAwayWithCallsUnderWayAnswersThemAll) {
  auto cluster = std::make_unique<SimulatedCluster>(3);
  Park(*cluster);
  for (size_t i = 0; i < 3; ++i) cluster->node(i).latency = absl::Hours(1);
  int n_objects = 0;
  int n_ended = 0;
  const auto get = cluster->client->Get(
      {.fingerprint = FingerprintOf(1), .items = Wants(), .timeout = absl::Minutes(1)},
      {.on_object = [&](size_t, const auto&) { ++n_objects; }, .on_done = [&](const absl::Status&) { ++n_ended; }});
  const auto put = cluster->client->Put(absl::Minutes(1), {.on_outcome = [&](size_t, const auto&) { ++n_objects; },
                                                           .on_done = [&](const absl::Status&) { ++n_ended; }});
  put->Offer(PutOf(chain_.blocks[0]));
  cluster->client->Lookup(Query(), absl::Minutes(1), [&](const auto&) { ++n_ended; });
  cluster->client->Stats(absl::Minutes(1), [&](const auto&) { ++n_ended; });
  cluster->Settle();
  cluster->client.reset();
  EXPECT_EQ(n_objects, 701);
  EXPECT_EQ(n_ended, 4);
  get->Release(5);
  put->Offer(PutOf(chain_.blocks[1]));
}

// Puts, parks, reads and drops while nodes die, hang, stutter and come back, some of them empty. What is read is what
// was put; what was parked on two nodes is there as long as no two nodes were emptied since; every call ends in time.
TEST_F(ClusterFaults, RandomFaultsCostMissesAndNothingElse) {
  constexpr uint64_t kSeed = 20261127;
  constexpr size_t kNodes = 5;
  std::mt19937_64 random(kSeed);
  SimulatedCluster cluster(kNodes);
  std::vector<Object> objects;
  for (uint64_t id = 1; id <= 400; ++id) {
    objects.push_back(MakeObject(id, 0, 256, 200 + id % 300));
    objects.back().head.extent = Hash(id % 40);
  }
  std::map<size_t, std::set<size_t>> parked;  // object: nodes emptied since it was parked
  std::vector<int> sick(kNodes);              // rounds left
  int n_hits = 0;
  int n_promised = 0;
  for (int round = 0; round < 3000; ++round) {
    // At most two nodes at once.
    const size_t n_sick = static_cast<size_t>(kNodes - std::count(sick.begin(), sick.end(), 0));
    for (size_t i = 0; i < kNodes; ++i) {
      SimulatedStore& node = cluster.node(i);
      if (sick[i] > 0 && --sick[i] == 0) {
        node.down = absl::OkStatus();
        node.latency = node.object_latency = absl::ZeroDuration();
        // Time for everybody to see that it is back.
        cluster.Pass(absl::Seconds(11), absl::Milliseconds(100));
      }
      if (sick[i] > 0 || n_sick >= 2 || random() % 60 != 0) continue;
      sick[i] = 1 + static_cast<int>(random() % 20);
      switch (random() % 4) {
        case 0:
          node.down = kDown;
          break;
        case 1:
          node.latency = absl::Hours(1);
          break;
        case 2:
          node.object_latency = absl::Milliseconds(random() % 50);
          break;
        case 3:
          node.down = kDown;
          node.Restart();
          for (auto& [object, emptied] : parked) emptied.insert(i);
          break;
      }
    }
    std::vector<size_t> some;
    for (uint64_t n = 1 + random() % 12; n > 0; --n) some.push_back(random() % objects.size());
    switch (random() % 4) {
      case 0: {
        std::vector<PutItem> puts;
        for (const size_t i : some) puts.push_back(PutOf(objects[i]));
        const auto put = cluster.PutAll(puts, absl::Seconds(2));
        ASSERT_LE(put.took, absl::Milliseconds(2001)) << "seed " << kSeed << " round " << round;
        break;
      }
      case 1: {
        std::vector<PutItem> puts;
        for (const size_t i : some) puts.push_back(PutOf(Parked(objects[i], kLater), 2, Ack::kMemoryAll));
        const auto put = cluster.PutAll(puts, absl::Seconds(2));
        ASSERT_LE(put.took, absl::Milliseconds(2001));
        for (size_t n = 0; n < some.size(); ++n) {
          if (put.outcomes.at(n).ok()) parked[some[n]].clear();
        }
        break;
      }
      case 2: {
        if (random() % 8 != 0) continue;
        std::vector<PlacedKey> keys;
        for (const size_t i : some) keys.push_back({objects[i].head.key, objects[i].head.extent});
        (void)cluster.Drop(keys);
        for (const size_t i : some) parked.erase(i);
        break;
      }
      default: {
        std::vector<GetItem> wants;
        for (const size_t i : some) wants.push_back(WantOf(objects[i]));
        const auto got = cluster.Get(wants, absl::Seconds(5));
        ASSERT_LE(got.took, absl::Milliseconds(5001));
        const size_t n_sick_now = static_cast<size_t>(kNodes - std::count(sick.begin(), sick.end(), 0));
        for (size_t n = 0; n < some.size(); ++n) {
          if (got.objects[n].ok()) {
            ++n_hits;
            ASSERT_EQ(got.objects[n]->payload, objects[some[n]].payload) << "seed " << kSeed << " round " << round;
          }
          const auto promise = parked.find(some[n]);
          if (promise == parked.end() || promise->second.size() + n_sick_now > 1) continue;
          ++n_promised;
          EXPECT_TRUE(got.objects[n].ok())
              << "seed " << kSeed << " round " << round << " object " << some[n] << ": " << got.objects[n].status();
        }
      }
    }
  }
  EXPECT_GT(n_hits, 1000);
  EXPECT_GT(n_promised, 300);
}

}  // namespace
}  // namespace longshelf::kvstore
