// What a cluster does when some of its nodes do not do what they should.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <variant>
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
    for (const Object& block : chain_.blocks) puts.push_back(ItemOf(Parked(block, kLater), 2, Ack::kMemoryAll));
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

TEST_F(ClusterFaults, ASlowNodeDoesNotDoubleTheTimeOfTheSlowestReads) {
  SimulatedCluster cluster(5);
  Park(cluster);
  for (size_t i = 0; i < 5; ++i) cluster.node(i).latency = absl::Milliseconds(4 + i);
  std::mt19937_64 random(5);
  const auto slowest_of_a_hundred = [&] {
    std::vector<absl::Duration> took;
    for (int i = 0; i < 3000; ++i) {
      const auto got = cluster.Get({WantOf(chain_.blocks[random() % chain_.blocks.size()])});
      EXPECT_TRUE(got.objects[0].ok()) << got.objects[0].status();
      took.push_back(got.took);
    }
    std::sort(took.begin(), took.end());
    return took[took.size() * 99 / 100];
  };
  const absl::Duration healthy = slowest_of_a_hundred();
  const size_t slow = cluster.PlacesOf(chain_.root, 1)[0];
  cluster.node(slow).latency = absl::Milliseconds(100);
  cluster.node(slow).n_gets = 0;
  EXPECT_LE(slowest_of_a_hundred(), 2 * healthy);
  EXPECT_GT(cluster.node(slow).n_gets, 1) << "it is asked now and then";
}

// Nodes that have joined since an object was put come before those that have it.
TEST_F(ClusterFaults, AnObjectIsFoundOnTheLastOfTheCandidatesAndNotBehindThem) {
  for (const size_t place : {2u, 3u, 4u}) {
    SimulatedCluster cluster(6);
    const Object& block = chain_.blocks[0];
    SimulatedStore& holder = cluster.node(cluster.PlacesOf(block.head.extent, 5)[place]);
    auto opened = holder.store().Open(block.head, cluster.clock.WallNow());
    ASSERT_TRUE(opened.ok()) << opened.status();
    auto reservation = std::get<Store::Reservation>(*std::move(opened));
    ASSERT_TRUE(reservation.Append(0, block.payload).ok());
    ASSERT_TRUE(holder.store().Commit(std::move(reservation), cluster.clock.WallNow()).ok());
    const bool is_candidate = place < 2 + 2;
    const auto got = cluster.Get({WantOf(block)});
    EXPECT_EQ(got.objects[0].status().code(), is_candidate ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
    const LookupQuery query{.fingerprint = FingerprintOf(1), .root = chain_.root, .chain = {chain_.keys[0]}};
    const auto found = cluster.Lookup(query);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->n_present, is_candidate ? 1u : 0u) << place;
  }
}

TEST_F(ClusterFaults, AFencedDiskCountsForNothingAndItsNodeIsReadAsBefore) {
  for (const Ack ack : {Ack::kMemoryAll, Ack::kDurableOne, Ack::kDurableAll}) {
    SimulatedCluster cluster(4);
    std::map<ObjectKey, int> on_disk;
    for (size_t i = 0; i < 4; ++i) {
      cluster.node(i).has_disk = true;
      cluster.node(i).on_durable = [&](const PutItem& item) { ++on_disk[item.head.key]; };
    }
    const size_t fenced = cluster.PlacesOf(chain_.root, 1)[0];
    cluster.node(fenced).disk_fault = absl::UnavailableError("the device failed; it is only read");
    std::vector<PutItem> puts;
    for (const Object& block : chain_.blocks) puts.push_back(ItemOf(Parked(block, kLater), 2, ack));
    const auto put = cluster.PutAll(puts);
    for (const auto& [index, outcome] : put.outcomes) ASSERT_TRUE(outcome.ok()) << index << outcome.status();
    if (IsDurable(ack)) {
      for (const Object& block : chain_.blocks) ASSERT_EQ(on_disk[block.head.key], 2);
    }
    cluster.node(fenced).n_gets = 0;
    ExpectWhole(cluster.Get(Wants()));
    EXPECT_GT(cluster.node(fenced).n_gets, 0) << "memory has it all the same";
    cluster.node(fenced).down = kDown;
    ExpectWhole(cluster.Get(Wants()));
  }
}

TEST_F(ClusterFaults, WithTooFewSoundDisksADurableParkIsRefused) {
  SimulatedCluster cluster(3);
  for (size_t i = 0; i < 3; ++i) cluster.node(i).has_disk = true;
  for (size_t i = 0; i < 2; ++i) cluster.node(i).disk_fault = absl::UnavailableError("the device failed");
  const Object object = Parked(chain_.blocks[0], kLater);
  EXPECT_EQ(cluster.PutAll({ItemOf(object, 2, Ack::kDurableAll)}).outcomes.at(0).status().code(),
            absl::StatusCode::kUnavailable);
  const TouchQuery query{.keys = {{object.head.key, object.head.extent}},
                         .retain_until = kLater,
                         .ack = Ack::kDurableAll,
                         .n_replicas = 2};
  EXPECT_FALSE(cluster.Touch(query)->retained[0]);
  EXPECT_TRUE(cluster.Get({WantOf(object)}).objects[0].ok());
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
  auto put =
      cluster.PutAll({ItemOf(Parked(chain_.blocks[0], kLater), 2, Ack::kMemoryAll), ItemOf(chain_.blocks[1], 2)});
  EXPECT_EQ(put.outcomes.at(0).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(put.outcomes.at(1).ok()) << "one node is enough for a cache object: " << put.outcomes.at(1).status();
  cluster.node(3).down = kDown;
  cluster.Pass(absl::Seconds(1), absl::Milliseconds(100));
  put = cluster.PutAll({ItemOf(chain_.blocks[2])});
  EXPECT_EQ(put.outcomes.at(0).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClusterFaults, ATouchIsNotHeldByANodeThatHangsNorAreOthersBlamed) {
  const Object object = Parked(chain_.blocks[0], kLater);
  for (const Ack ack : {Ack::kMemoryAll, Ack::kDurableOne, Ack::kDurableAll}) {
    for (const size_t hung : {2u, 0u}) {
      SimulatedCluster cluster(3);
      for (size_t i = 0; i < 3; ++i) cluster.node(i).has_disk = true;
      ASSERT_TRUE(cluster.PutAll({ItemOf(object, 2, Ack::kMemoryAll)}).status.ok());
      cluster.node(cluster.PlacesOf(object.head.extent, 3)[hung]).latency = absl::Hours(1);
      const absl::Time begun = cluster.clock.Now();
      const TouchQuery query{
          .keys = {{object.head.key, object.head.extent}}, .retain_until = kLater, .ack = ack, .n_replicas = 2};
      const auto touched = cluster.Touch(query);
      ASSERT_TRUE(touched.ok()) << touched.status();
      const bool both_answer = hung == 2;
      EXPECT_EQ(touched->retained[0], both_answer);
      EXPECT_LE(cluster.clock.Now() - begun, both_answer ? absl::Milliseconds(100) : absl::Seconds(2));
      // The others are asked as before.
      for (size_t i = 0; i < 3; ++i) cluster.node(i).n_gets = 0;
      EXPECT_TRUE(cluster.Get({WantOf(object)}).objects[0].ok());
      EXPECT_EQ(cluster.node(cluster.PlacesOf(object.head.extent, 3)[both_answer ? 0 : 1]).n_gets, 1);
    }
  }
}

TEST_F(ClusterFaults, APutThatIsContentWithFewerCopiesIsNotHeldByANodeThatIsDownOrHangs) {
  for (const Ack ack : {Ack::kMemoryAll, Ack::kDurableOne, Ack::kDurableAll}) {
    const auto put = [&](SimulatedCluster& cluster) {
      std::optional<absl::Status> outcome;
      std::optional<absl::Status> done;
      const auto call = cluster.client->Put(absl::Seconds(10),
                                            {.on_outcome = [&](size_t, const auto& given) { outcome = given.status(); },
                                             .on_done = [&](const absl::Status& status) { done = status; }});
      PutItem item = ItemOf(Parked(chain_.blocks[0], kLater), 3, ack);
      item.n_acks = 2;
      call->Offer(item);
      call->Finish();
      const absl::Duration took = cluster.PassUntil([&] { return outcome.has_value(); });
      EXPECT_LE(took, absl::Milliseconds(100));
      cluster.PassUntil([&] { return done.has_value(); });
      return *outcome;
    };
    for (size_t lost = 0; lost < 3; ++lost) {
      SimulatedCluster cluster(3);
      for (size_t i = 0; i < 3; ++i) cluster.node(i).has_disk = true;
      cluster.node(lost).down = kDown;
      EXPECT_TRUE(put(cluster).ok());
      cluster.node((lost + 1) % 3).down = kDown;
      EXPECT_EQ(put(cluster).code(), absl::StatusCode::kUnavailable);
    }
    SimulatedCluster cluster(3);
    for (size_t i = 0; i < 3; ++i) cluster.node(i).has_disk = true;
    cluster.node(1).latency = absl::Hours(1);
    EXPECT_TRUE(put(cluster).ok());
    SimulatedCluster whole(4);
    for (size_t i = 0; i < 4; ++i) whole.node(i).has_disk = true;
    EXPECT_TRUE(put(whole).ok());
    size_t n_copies = 0;
    for (size_t i = 0; i < 4; ++i) n_copies += whole.node(i).n_objects();
    EXPECT_EQ(n_copies, 3u) << "it wants three all the same";
  }
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
  const auto put = cluster.PutAll({ItemOf(Parked(MakeObject(1, 0, 256, 10), kLater), 2, Ack::kMemoryAll)});
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
  EXPECT_LE(cluster.PutAll({ItemOf(chain_.blocks[0])}, absl::Seconds(2)).took, absl::Milliseconds(2001));
  const absl::Time begun = cluster.clock.Now();
  EXPECT_FALSE(cluster.Lookup(Query(), absl::Milliseconds(300)).ok());
  EXPECT_LE(cluster.clock.Now() - begun, absl::Milliseconds(301));
}

TEST_F(ClusterFaults, TheLastStoreThatCanBeAskedIsNotGivenUpForBeingSlow) {
  SimulatedCluster cluster(2);
  Park(cluster);
  for (int i = 0; i < 20; ++i) ExpectWhole(cluster.Get(Wants()));  // how long it usually takes
  cluster.node(0).down = kDown;
  for (int i = 0; i < 3; ++i) ExpectWhole(cluster.Get(Wants()));  // and nobody asks it any more
  int n_given = 0;
  cluster.node(1).before_get = [&] { cluster.node(1).object_latency = absl::Milliseconds(++n_given == 3 ? 300 : 0); };
  std::vector<GetItem> some = Wants();
  some.resize(6);
  const auto got = cluster.Get(some);
  for (size_t i = 0; i < some.size(); ++i) {
    ASSERT_TRUE(got.objects[i].ok()) << i << ": " << got.objects[i].status();
    EXPECT_EQ(got.objects[i]->payload, chain_.blocks[i].payload);
  }
}

TEST_F(ClusterFaults, APutCallsANodeAgainThatWasAwayForAMoment) {
  SimulatedCluster cluster(2);
  std::map<size_t, absl::Status> outcomes;
  std::optional<absl::Status> done;
  const auto put = cluster.client->Put(
      absl::Seconds(20),
      {.on_outcome = [&](size_t index,
                         const absl::StatusOr<PutOutcome>& outcome) { outcomes[index] = outcome.status(); },
       .on_done = [&](const absl::Status& status) { done = status; }});
  const auto offer = [&](size_t block) {
    put->Offer(ItemOf(Parked(chain_.blocks[block], kLater), 2, Ack::kMemoryAll));
    cluster.Pass(absl::Milliseconds(20));
  };
  cluster.node(1).down = kDown;
  offer(0);
  EXPECT_EQ(outcomes.at(0).code(), absl::StatusCode::kUnavailable);
  cluster.node(1).down = absl::OkStatus();
  offer(0);
  offer(1);
  EXPECT_TRUE(outcomes.at(1).ok()) << outcomes.at(1);
  EXPECT_TRUE(outcomes.at(2).ok()) << outcomes.at(2);
  put->Finish();
  cluster.PassUntil([&] { return done.has_value(); });
  EXPECT_TRUE(done->ok()) << *done;
}

TEST_F(ClusterFaults, ImpatientCallersDoNotTakeASlowStoreFromThoseWhoCanWait) {
  SimulatedCluster cluster(2);
  Park(cluster);
  for (size_t i = 0; i < 2; ++i) cluster.node(i).latency = absl::Milliseconds(200);
  int n_late = 0;
  for (int i = 0; i < 10; ++i) {
    cluster.client->Lookup(Query(), absl::Milliseconds(100), [&](const absl::StatusOr<LookupResult>& result) {
      n_late += absl::IsDeadlineExceeded(result.status()) ? 1 : 0;
    });
  }
  cluster.PassUntil([&] { return n_late == 10; });
  const auto found = cluster.Lookup(Query(), absl::Seconds(5));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->n_present, 700u);
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
  put->Offer(ItemOf(chain_.blocks[0]));
  cluster->client->Lookup(Query(), absl::Minutes(1), [&](const auto&) { ++n_ended; });
  cluster->client->Stats(absl::Minutes(1), [&](const auto&) { ++n_ended; });
  cluster->Settle();
  cluster->client.reset();
  EXPECT_EQ(n_objects, 701);
  EXPECT_EQ(n_ended, 4);
  get->Release(5);
  put->Offer(ItemOf(chain_.blocks[1]));
}

}  // namespace
}  // namespace longshelf::kvstore
