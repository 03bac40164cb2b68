// The way out: offloading, parking, and giving the store again what it has lost.

#include <algorithm>

#include "bridge_harness.h"
#include "kvstore/namespace_id.h"

namespace longshelf::worker {
namespace {

using kvstore::ObjectKey;
using kvstore::ObjectKind;

class WayOutTest : public BridgeHarness {
 protected:
  // As another worker sees it.
  int64_t Restorable(const std::vector<uint32_t>& tokens) {
    store_.latency = absl::ZeroDuration();
    const auto request = Restore(tokens);
    return request->end.has_value() ? request->end->n_tokens : 0;
  }
  void HoldForPark(const std::vector<uint32_t>& tokens, int64_t n) {
    engine_.Hold(Objects(tokens, {n}));
    engine_.found = FoundAt(tokens, n);
  }
};

TEST_F(WayOutTest, OffloadsInTheOrderOfTheChain) {
  Start();
  const auto tokens = Tokens(1000);
  Offload(tokens, {1000});
  Settle();
  EXPECT_EQ(store_.n_objects(), 5U);
  ASSERT_EQ(store_.put_keys.size(), 5U);
  for (const int64_t n : {256, 512, 768}) {
    EXPECT_EQ(store_.put_keys[static_cast<size_t>(n / 256 - 1)], KeyOf(tokens, n, ObjectKind::kBlock));
  }
  EXPECT_EQ(Restorable(Tokens(1001)), 1000);
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
}

// Blocks of one chain lie on two shards, as after twins that began on both: each brings its own.
TEST_F(WayOutTest, EveryShardBringsWhatItHasAndTheOneThatNeedsItFetchesIt) {
  engine_.n_shards = 2;
  Start();
  const auto tokens = Tokens(1000);
  Offload(tokens, {1000});
  Settle();
  EXPECT_EQ(store_.n_objects(), 5U);
  EXPECT_EQ(store_.n_puts, 3) << "the first block, then the rest, of each shard one";

  const auto session = Tokens(5000, 100'000);
  HoldForPark(session, 4900);
  const size_t n_parked = Objects(session, {4900}).size();
  const auto outcome = Park(session);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->n_objects, 19U + 2);
  auto longer = Tokens(4901, 100'000);
  for (const uint16_t home : {uint16_t{1}, uint16_t{0}}) {
    home_ = home;
    EXPECT_EQ(Restorable(Tokens(1001)), 1000);
    const auto request = Restore(longer);
    ASSERT_TRUE(request->end.has_value());
    ASSERT_EQ(request->end->n_tokens, 4900) << request->end->miss_reason;
    for (size_t i = 0; i < request->blocks.size(); ++i) {
      ASSERT_EQ(request->blocks[i], Filled(kBlockBytes, 256 * (i + 1))) << i;
    }
    EXPECT_EQ(request->end->state, Filled(StateBytes(4900), 4900));
  }
  engine_.found = absl::NotFoundError("not held");
  Settle();
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
  EXPECT_EQ(of_shards_[0].size() + of_shards_[1].size(), Objects(tokens, {1000}).size() + n_parked)
      << "nothing is kept but what the engine has";
}

TEST_F(WayOutTest, DropsAndCountsWhatTheBudgetCannotHoldAndBringsItLater) {
  options_.memory_bytes = options_.MemoryMin();
  Start();
  const auto tokens = Tokens(5000);
  store_.latency = absl::Milliseconds(100);
  Offload(tokens, {5000});
  Settle();
  EXPECT_LE(bridge_->n_bytes_used(), options_.memory_bytes);
  EXPECT_FALSE(Shows("longshelf_worker_offload_dropped_total 0"));
  Pass(absl::Seconds(10));
  EXPECT_EQ(Restorable(Tokens(5001)), 5000) << "the end of a turn shows what is missing";
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
}

TEST_F(WayOutTest, AStoreThatRestartedEmptyHasTheWholeSessionAfterTheNextTurn) {
  options_.memory_bytes = 400 * kBlockBytes;
  Start();
  const auto first = Tokens(20'000);
  Offload(first, {20'000});
  Settle();
  ASSERT_EQ(Restorable(Tokens(20'001)), 20'000);
  store_.Restart();
  // The next turn makes few new objects.
  const auto second = Tokens(20'600);
  const auto all = Objects(second, {20'600});
  engine_.Hold(all);
  bridge_->Offload({"tenant", FoundAt(second, 20'600).root, FoundAt(second, 20'600).blocks},
                   Named({all.end() - 2, all.end()}));
  Pass(absl::Seconds(1));
  EXPECT_EQ(Restorable(Tokens(20'601)), 20'600);
  EXPECT_TRUE(Shows("longshelf_worker_healed_blocks_total 80"));
}

TEST_F(WayOutTest, AnIdleSessionIsGivenBackToAStoreThatRestartedEmpty) {
  Start();
  const auto tokens = Tokens(5000);
  Offload(tokens, {5000});
  Settle();
  store_.Restart();
  Pass(options_.verify_interval + absl::Seconds(1));
  EXPECT_EQ(Restorable(Tokens(5001)), 5000);
}

TEST_F(WayOutTest, IdleSessionsThatDifferInTheirLastBlockAreAllGivenBack) {
  for (const size_t n_shared : {0, 512}) {
    Start();
    std::vector<std::vector<uint32_t>> sessions;
    for (uint32_t i = 0; i < 3; ++i) {
      auto tokens = Tokens(n_shared);
      for (const uint32_t token : Tokens(88, 10'000 * (i + 1))) tokens.push_back(token);
      // Two turns: where the prompt ended, and where the answer did.
      Offload(tokens, {static_cast<int64_t>(n_shared) + 40, static_cast<int64_t>(n_shared) + 88});
      sessions.push_back(std::move(tokens));
    }
    Settle();
    store_.Restart();
    Pass(options_.verify_interval + absl::Seconds(1));
    for (auto& tokens : sessions) {
      tokens.push_back(7);
      EXPECT_EQ(Restorable(tokens), static_cast<int64_t>(n_shared) + 88);
    }
    TearDown();
  }
}

TEST_F(WayOutTest, ASessionIsLookedAfterOnceHoweverManyTurnsItHasAndLeavesOthersAlone) {
  Start();
  auto other = Tokens(512);
  for (const uint32_t token : Tokens(88, 10'000)) other.push_back(token);
  Offload(other, {600});
  Offload(Tokens(1400), {512, 600, 700, 900, 1400});  // past the blocks that they share
  Settle();
  store_.Restart();
  const int n_lookups = store_.n_lookups;
  Pass(options_.verify_interval + absl::Seconds(1));
  EXPECT_EQ(store_.n_lookups, n_lookups + 2);
  other.push_back(7);
  EXPECT_EQ(Restorable(other), 600);
  EXPECT_EQ(Restorable(Tokens(1401)), 1400);
}

TEST_F(WayOutTest, WhatCouldNotBePutWhileTheStoreWasDownIsPutWhenItIsBack) {
  Start();
  store_.down = absl::UnavailableError("down");
  const auto tokens = Tokens(3000);
  Offload(tokens, {3000});
  Pass(absl::Seconds(5));
  EXPECT_EQ(store_.n_objects(), 0U);
  store_.down = absl::OkStatus();
  Pass(absl::Minutes(1));
  EXPECT_EQ(Restorable(Tokens(3001)), 3000);
}

TEST_F(WayOutTest, HealingHoldsFewBlocksAtATime) {
  options_.memory_bytes = options_.MemoryMin() + 64 * kBlockBytes;
  Start();
  const auto tokens = Tokens(256 * 500);
  engine_.Hold(Objects(tokens, {256 * 500 - 5}));
  const auto found = FoundAt(tokens, 256 * 500 - 5);
  store_.latency = absl::Milliseconds(10);
  const auto all = Objects(tokens, {256 * 500 - 5});
  bridge_->Offload({"tenant", found.root, found.blocks}, Named({all.end() - 2, all.end()}));
  uint64_t n_used = 0;
  for (int i = 0; i < 200; ++i) {
    Pass(absl::Milliseconds(10));
    n_used = std::max(n_used, bridge_->n_bytes_used());
  }
  EXPECT_LE(n_used, options_.memory_bytes / 2);
  Pass(absl::Seconds(20));
  EXPECT_EQ(Restorable(tokens), 256 * 500 - 5);
}

TEST_F(WayOutTest, ASessionThatIsNotHeldAnyMoreIsForgotten) {
  Start();
  const auto tokens = Tokens(3000);
  Offload(tokens, {3000});
  Settle();
  store_.Restart();
  engine_.blocks.clear();
  Pass(options_.verify_interval + absl::Seconds(1));
  const int n_lookups = store_.n_lookups;
  Pass(3 * options_.verify_interval);
  EXPECT_EQ(store_.n_lookups, n_lookups);
}

TEST_F(WayOutTest, WhatWasDeletedIsNotGivenBackAndForgotten) {
  options_.verify_interval = absl::Seconds(2);
  Start();
  const auto tokens = Tokens(3000);
  Offload(tokens, {3000});
  Settle();
  ASSERT_GT(store_.n_objects(), 0U);
  store_.DropNamespace({.id = "tenant", .before_generation = 7, .retire = true}, absl::Seconds(1),
                       [](const absl::StatusOr<kvstore::DropResult>&) {});
  Settle();
  ASSERT_EQ(store_.n_objects(), 0U);
  Pass(5 * options_.verify_interval);
  EXPECT_EQ(store_.n_objects(), 0U);
  const int n_lookups = store_.n_lookups;
  const int n_puts = store_.n_puts;
  Pass(5 * options_.verify_interval);
  EXPECT_EQ(store_.n_lookups, n_lookups) << "its sessions are forgotten";
  // The next turn of an answer that is still being made under the old name.
  Offload(Tokens(3500), {3500});
  Pass(2 * options_.verify_interval);
  EXPECT_EQ(store_.n_puts, n_puts);
  EXPECT_EQ(store_.n_lookups, n_lookups);
  EXPECT_EQ(store_.n_objects(), 0U);
  EXPECT_TRUE(Shows("longshelf_worker_store_up 1"));
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
  // The generation after it is another namespace.
  const auto later = Tokens(600, 5);
  const auto objects = Objects(later, {600});
  bridge_->Offload({kvstore::NamespaceIdOf("tenant", 7), FoundAt(later, 600).root, FoundAt(later, 600).blocks},
                   Named(objects));
  Settle();
  EXPECT_EQ(store_.n_objects(), objects.size());
}

TEST_F(WayOutTest, WhatIsQueuedOfADeletedNamespaceIsNoFailureOfTheStore) {
  options_.verify_interval = absl::Hours(1);
  Start();
  store_.DropNamespace({.id = "tenant", .before_generation = 7, .retire = true}, absl::Seconds(1),
                       [](const absl::StatusOr<kvstore::DropResult>&) {});
  Settle();
  for (uint32_t i = 0; i < 10; ++i) Offload(Tokens(600, 1000 * i), {600});
  Settle();
  EXPECT_EQ(store_.n_objects(), 0U);
  EXPECT_LT(store_.put_keys.size(), 40U) << "once it was refused the rest stays here";
  EXPECT_TRUE(Shows("longshelf_worker_offload_objects_total{result=\"refused\"} 40"));
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
  const auto later = Tokens(600);
  bridge_->Offload({"another", FoundAt(later, 600).root, FoundAt(later, 600).blocks}, Named(Objects(later, {600})));
  Settle();
  EXPECT_EQ(store_.n_objects(), 4U) << "nobody is kept away from the store";
}

TEST_F(WayOutTest, DropsCheckpointsBehindTheirPuts) {
  Start();
  const auto tokens = Tokens(3000);
  Offload(tokens, {2048, 3000});
  const engine::FoundPrefix found = FoundAt(tokens, 3000);
  bridge_->DropCheckpoints({"tenant", found.root, found.blocks}, {KeyOf(tokens, 2048, ObjectKind::kCheckpoint).hash});
  Settle();
  EXPECT_FALSE(IsStored(KeyOf(tokens, 2048, ObjectKind::kCheckpoint)));
  EXPECT_TRUE(IsStored(KeyOf(tokens, 2048, ObjectKind::kBlock)));
  EXPECT_EQ(Restorable(Tokens(3001)), 3000);
}

TEST_F(WayOutTest, ACheckpointThatIsParkedIsNotDropped) {
  Start();
  const auto tokens = Tokens(2048);
  HoldForPark(tokens, 2048);
  ASSERT_TRUE(Park(tokens).ok());
  const engine::FoundPrefix found = FoundAt(tokens, 2048);
  // As a worker does it that has a later one of the same session, and knows of no park.
  bridge_->DropCheckpoints({"tenant", found.root, found.blocks}, {found.at.key});
  Settle();
  EXPECT_EQ(Restorable(Tokens(2049)), 2048);
}

// ---- parks

TEST_F(WayOutTest, ParksEverythingWithTheRetentionAndAnswersWithTheCheckpoint) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  const auto outcome = Park(tokens);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->n_tokens, 600);
  EXPECT_EQ(outcome->n_objects, 4U);
  EXPECT_EQ(outcome->n_bytes, 3 * kBlockBytes + StateBytes(600));
  EXPECT_EQ(outcome->checkpoint_key, KeyOf(tokens, 600, ObjectKind::kCheckpoint).hash);
  for (const auto& [n, kind] : std::vector<std::pair<int64_t, ObjectKind>>{{256, ObjectKind::kBlock},
                                                                           {512, ObjectKind::kBlock},
                                                                           {600, ObjectKind::kTail},
                                                                           {600, ObjectKind::kCheckpoint}}) {
    const auto stored = store_.Read(KeyOf(tokens, n, kind), options_.fingerprint);
    ASSERT_NE(stored, nullptr);
    EXPECT_EQ(stored->head.object_class, kvstore::ObjectClass::kParked);
    EXPECT_EQ(stored->head.retain_until, absl::FromUnixSeconds(4'000'000'000));
    EXPECT_EQ(stored->head.namespace_id, "tenant");
  }
  EXPECT_EQ(Restorable(Tokens(601)), 600);
}

TEST_F(WayOutTest, ParkingWhatIsThereSendsNoBytesAndPromisesAll) {
  Start();
  const auto tokens = Tokens(5000);
  Offload(tokens, {5000});
  Settle();
  HoldForPark(tokens, 5000);
  const auto outcome = Park(tokens);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->n_objects, 21U);
  EXPECT_EQ(engine_.n_blocks_sent, 0);
  for (int64_t n = 256; n <= 5000; n += 256) {
    EXPECT_EQ(store_.Read(KeyOf(tokens, n, ObjectKind::kBlock), options_.fingerprint)->head.object_class,
              kvstore::ObjectClass::kParked);
  }
}

TEST_F(WayOutTest, ParkingWhatIsTooFewNodesHaveSendsItAgainAndDurableIsAskedForAtTheEnd) {
  Start();
  const auto tokens = Tokens(5000);
  Offload(tokens, {5000});
  Settle();
  HoldForPark(tokens, 5000);
  store_.n_retained_max = 7;  // of the keys of one Touch, until more are put
  store_.refuse = [this](const kvstore::PutItem&) {
    store_.n_retained_max = 1000;
    return absl::OkStatus();
  };
  store_.put_keys.clear();
  ASSERT_TRUE(Park(tokens).ok());
  EXPECT_EQ(store_.put_keys.size(), 19U - 7U + 2U);
  park_ack_ = kvstore::Ack::kDurableOne;
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kResourceExhausted) << "this store has no disk";
  store_.has_disk = true;
  EXPECT_TRUE(Park(tokens).ok());
}

TEST_F(WayOutTest, ParkFailsUnlessTheStoreAcknowledgedEveryObject) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  store_.refuse = [](const kvstore::PutItem& item) {
    return item.head.key.kind == ObjectKind::kTail ? absl::ResourceExhaustedError("parked share is full")
                                                   : absl::OkStatus();
  };
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kResourceExhausted);
  // Busy for a while is not a refusal.
  int n_busy = 5;
  store_.refuse = [&n_busy](const kvstore::PutItem& item) {
    return item.head.key.kind == ObjectKind::kTail && n_busy-- > 0 ? absl::UnavailableError("busy") : absl::OkStatus();
  };
  EXPECT_TRUE(Park(tokens).ok());
  store_.Restart();
  store_.refuse = [](const kvstore::PutItem&) { return absl::UnavailableError("busy"); };
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kUnavailable) << "but for ever is";
  store_.refuse = nullptr;
  engine_.blocks.clear();
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kNotFound) << "evicted meanwhile";
  engine_.found = absl::NotFoundError("not held");
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(WayOutTest, AParkThatWaitedForLongIsNotRefusedByTheFirstStoreThatIsBusy) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  int n_busy = 5;
  store_.refuse = [&n_busy](const kvstore::PutItem&) {
    return n_busy-- > 0 ? absl::UnavailableError("busy") : absl::OkStatus();
  };
  store_.latency = absl::Seconds(12);
  const auto answer = AskToPark(tokens);
  Settle();
  store_.latency = absl::ZeroDuration();
  Pass(absl::Seconds(15));
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE((*answer)->ok()) << (*answer)->status();
}

TEST_F(WayOutTest, AModelWithALargeStateParksWithTheLeastMemory) {
  options_.state_bytes_max = 40 * kBlockBytes;
  options_.memory_bytes = options_.MemoryMin();
  Start();
  const auto tokens = Tokens(5000);
  HoldForPark(tokens, 5000);
  EXPECT_TRUE(Park(tokens).ok());
}

TEST_F(WayOutTest, AWorkerThatHasTooMuchToDoDoesNotSayThatTheStoreIsFull) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  engine_.is_export_stuck = true;
  std::vector<std::shared_ptr<std::optional<absl::StatusOr<ParkOutcome>>>> parks;
  for (size_t i = 0; i < 65; ++i) parks.push_back(AskToPark(tokens));
  Settle();
  const auto n_answered = std::count_if(parks.begin(), parks.end(), [](const auto& park) { return park->has_value(); });
  ASSERT_EQ(n_answered, 1);
  EXPECT_EQ((**parks.back()).status().code(), absl::StatusCode::kUnavailable);
  // So does one whose engine takes no more messages.
  engine_.is_asleep = true;
  parks.clear();
  while (parks.empty() || !parks.back()->has_value()) parks.push_back(AskToPark(tokens));
  EXPECT_EQ((**parks.back()).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(WayOutTest, OfAParkThatFailsNothingIsParkedSoonAfter) {
  Start();
  const auto tokens = Tokens(1000);
  Offload(Tokens(600), {512});  // some of it is there
  Settle();
  HoldForPark(tokens, 1000);
  store_.refuse = [](const kvstore::PutItem& item) {
    return item.head.key.kind == ObjectKind::kTail ? absl::ResourceExhaustedError("no") : absl::OkStatus();
  };
  for (const auto ack : {kvstore::Ack::kMemoryOne, kvstore::Ack::kMemoryAll, kvstore::Ack::kDurableOne}) {
    park_ack_ = ack;
    EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kResourceExhausted);
    clock_.Advance(absl::Minutes(5));
    EXPECT_EQ(store_.store().Stats(clock_.WallNow()).parked_bytes, 0U);
  }
  // Everything is taken, but there is no disk.
  store_.refuse = nullptr;
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kResourceExhausted);
  clock_.Advance(absl::Minutes(5));
  EXPECT_EQ(store_.store().Stats(clock_.WallNow()).parked_bytes, 0U);
  EXPECT_EQ(Restorable(Tokens(601)), 512) << "what was there before still is";
}

TEST_F(WayOutTest, AParkThatFailsTakesNothingFromOneThatFoundItsBlocksThere) {
  Start();
  const auto longer = Tokens(600);
  HoldForPark(longer, 600);
  absl::Status tail = absl::UnavailableError("busy");
  store_.refuse = [&](const kvstore::PutItem& item) {
    return item.head.key.kind == ObjectKind::kTail ? tail : absl::OkStatus();
  };
  const auto first = AskToPark(longer);
  Settle();
  HoldForPark(Tokens(512), 512);
  ASSERT_TRUE(Park(Tokens(512)).ok());
  ASSERT_FALSE(first->has_value());
  tail = absl::ResourceExhaustedError("parked share is full");
  Pass(absl::Seconds(1));
  ASSERT_TRUE(first->has_value());
  EXPECT_EQ((*first)->status().code(), absl::StatusCode::kResourceExhausted);
  Pass(absl::Seconds(1));
  EXPECT_EQ(Restorable(Tokens(513)), 512);
  const auto shared = store_.Read(KeyOf(longer, 512, ObjectKind::kBlock), options_.fingerprint);
  ASSERT_NE(shared, nullptr);
  EXPECT_EQ(shared->head.retain_until, absl::FromUnixSeconds(4'000'000'000));
}

TEST_F(WayOutTest, ALongParkNeedsAFewBlocksOfMemory) {
  options_.memory_bytes = options_.MemoryMin() + 64 * kBlockBytes;
  Start();
  const int64_t n = 256 * 5000 - 3;  // more blocks than one call takes
  const auto tokens = Tokens(256 * 5000);
  HoldForPark(tokens, n);
  const auto outcome = Park(tokens);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->n_objects, 5001U);
  EXPECT_LE(store_.n_bytes_offered_max, 10 * kBlockBytes);
  EXPECT_EQ(store_.n_bytes_offered, 0U);
}

// Measured before: ten parks of 270 MB against a stuck store took 2.7 GB.
TEST_F(WayOutTest, ManyParksAgainstAStuckStoreStayWithinTheBudget) {
  Start();
  const auto tokens = Tokens(20'000);
  HoldForPark(tokens, 20'000);
  std::vector<std::shared_ptr<std::optional<absl::StatusOr<ParkOutcome>>>> answers;
  for (int i = 0; i < 10; ++i) answers.push_back(AskToPark(tokens));
  Settle();  // looked up; now it gets stuck
  store_.latency = absl::Hours(1);
  for (int i = 0; i < 200; ++i) {
    Pass(absl::Seconds(1));
    EXPECT_LE(bridge_->n_bytes_used(), options_.memory_bytes / 2);
  }
  for (const auto& answer : answers) {
    ASSERT_TRUE(answer->has_value());
  }
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
}

TEST_F(WayOutTest, AParksOwnDeadlineIsNotTheStoresFault) {
  Start();
  HoldForPark(Tokens(600), 600);
  park_timeout_ = absl::Milliseconds(50);
  engine_.is_export_stuck = true;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Park(Tokens(600)).status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  // Nor is it when the store is slower than that.
  store_.latency = absl::Milliseconds(100);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Park(Tokens(600)).status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  store_.latency = absl::ZeroDuration();
  Offload(Tokens(256, 7), {});
  Settle();
  EXPECT_TRUE(IsStored(KeyOf(Tokens(256, 7), 256, ObjectKind::kBlock)));
}

TEST_F(WayOutTest, AStoreThatAnswersNoParkForLongIsLeftAlone) {
  Start();
  HoldForPark(Tokens(600), 600);
  store_.latency = absl::Hours(1);
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(Park(Tokens(600)).ok());
  store_.latency = absl::ZeroDuration();
  EXPECT_EQ(Park(Tokens(600)).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(WayOutTest, DisksThatHaveMuchToWriteAreWaitedForAndNotGivenUp) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  park_ack_ = kvstore::Ack::kDurableOne;
  store_.has_disk = true;
  store_.disk_latency = absl::Seconds(30);
  EXPECT_TRUE(Park(tokens).ok());
  // Longer than the park may take, twice: others are not kept away.
  store_.disk_latency = absl::Hours(1);
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(Park(tokens).ok());
  park_ack_ = kvstore::Ack::kMemoryAll;
  EXPECT_TRUE(Park(tokens).ok());
}

TEST_F(WayOutTest, AParkOfWhatIsNotHeldDoesNotTakeTheTurnOfOneThatAsksTheStore) {
  Start();
  store_.down = absl::UnavailableError("down");
  for (uint32_t seed = 0; seed < 2; ++seed) {
    Offload(Tokens(256, seed), {});
    Settle();
  }
  store_.down = absl::OkStatus();
  Pass(absl::Seconds(1));
  EXPECT_EQ(Park(Tokens(600)).status().code(), absl::StatusCode::kNotFound);
  Offload(Tokens(256, 7), {});
  Settle();
  EXPECT_TRUE(IsStored(KeyOf(Tokens(256, 7), 256, ObjectKind::kBlock)));
}

TEST_F(WayOutTest, AParkIsAnsweredWhenTheWorkerStops) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  store_.latency = absl::Seconds(5);
  const auto answer = AskToPark(tokens);
  Pass(absl::Milliseconds(100));
  bridge_->Stop();
  Pass(absl::Milliseconds(100));
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((*answer)->status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(WayOutTest, WhoWaitsIsAnsweredBeforeTheBridgeStopsAndSoIsWhoComesLater) {
  Start();
  const auto tokens = Tokens(600);
  HoldForPark(tokens, 600);
  store_.latency = absl::Seconds(5);
  const auto park = AskToPark(tokens);
  const auto restore = Ask(tokens);
  Settle();
  bridge_->Abandon();
  Settle();
  const auto later = AskToPark(tokens);
  const auto restore_later = Ask(tokens);
  Settle();
  ASSERT_TRUE(park->has_value() && later->has_value());
  EXPECT_EQ((*park)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ((*later)->status().code(), absl::StatusCode::kUnavailable);
  for (const auto& request : {restore, restore_later}) {
    ASSERT_TRUE(request->outcome.has_value());
    EXPECT_EQ(request->outcome->feed, nullptr);
  }
}

TEST_F(WayOutTest, WhatIsQueuedIsPutBeforeTheBridgeStops) {
  Start();
  store_.latency = absl::Milliseconds(300);
  const auto tokens = Tokens(3000);
  Offload(tokens, {3000});
  bridge_->Stop();
  Pass(absl::Seconds(5));
  EXPECT_EQ(store_.n_objects(), 13U);
}

}  // namespace
}  // namespace longshelf::worker
