// The store with a disk behind its memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <thread>

#include "kvstore/namespace_id.h"
#include "store_disk_fixture.h"

namespace longshelf::kvstore {
namespace {

using disk::Answer;
using disk::DatedClock;
using disk::MemoryFileSystem;
using Operation = disk::MemoryFileSystem::Operation;

// As a park does it: held for a while first, and retained when everything is there.
TEST_F(StoreDiskTest, WhatIsRetainedLongerOnItsWayToTheDiskIsWrittenOnce) {
  Start();
  std::promise<void> go;
  files_.SetFault([wait = go.get_future().share()](Operation operation) {
    if (operation == Operation::kWrite) wait.wait();
    return absl::OkStatus();
  });
  std::vector<ObjectKey> keys;
  for (uint64_t id = 0; id < 5; ++id) {
    ASSERT_TRUE(*Put(ParkedBlock(id, absl::Minutes(3))));
    keys.push_back(BlockKeyOf(id));
  }
  std::promise<TouchResult> touched;
  store_->Touch(keys, clock_.WallNow() + absl::Hours(10), clock_.WallNow(),
                [&touched](const TouchResult& result) { touched.set_value(result); });
  go.set_value();
  EXPECT_EQ(touched.get_future().get().retained, std::vector<bool>(5, true));
  EXPECT_EQ(tier_->Stats().n_put, 5u);
  files_.SetFault(nullptr);
  Start();
  clock_.Advance(9 * 3600);
  EXPECT_EQ(store_->DropCache(keys, clock_.WallNow()).n_dropped, 0u);
  EXPECT_EQ(Present(0, 5), 5u);
}

TEST_F(StoreDiskTest, WhatTheDiskRetainsMayBeRetainedLongerThoughMemoryHasNoRoomForThePromise) {
  Start(60);  // of which half
  std::vector<ObjectKey> keys;
  for (uint64_t id = 0; id < 40; ++id) {
    ASSERT_TRUE(PutDurably(ParkedBlock(id, absl::Minutes(3))).ok());
    keys.push_back(BlockKeyOf(id));
  }
  const absl::Time until = clock_.WallNow() + absl::Hours(10);
  const TouchResult touched = store_->Touch(keys, until, clock_.WallNow());
  EXPECT_EQ(touched.n_present, 40u);
  EXPECT_EQ(touched.n_refused, 0u);
  EXPECT_EQ(touched.retained, std::vector<bool>(40, true));
  std::promise<TouchResult> durable;
  store_->Touch(keys, until, clock_.WallNow(), [&durable](const TouchResult& result) { durable.set_value(result); });
  EXPECT_EQ(durable.get_future().get().retained, std::vector<bool>(40, true));
  EXPECT_EQ(tier_->Stats().n_put, 40u);
  Start();
  clock_.Advance(9 * 3600);
  EXPECT_EQ(store_->DropCache(keys, clock_.WallNow()).n_dropped, 0u);
}

TEST_F(StoreDiskTest, DroppingCacheLeavesWhatTheDiskRetains) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0, absl::Seconds(10))).ok());
  ASSERT_TRUE(PutDurably(ParkedBlock(1)).ok());
  ASSERT_TRUE(*Put(Block(2)));
  Start();  // memory has nothing
  ASSERT_TRUE(*Put(Block(3)));
  clock_.Advance(60);
  const ObjectKey keys[] = {BlockKeyOf(0), BlockKeyOf(1), BlockKeyOf(3)};
  EXPECT_EQ(store_->DropCache(keys, clock_.WallNow()).n_dropped, 2u);
  EXPECT_EQ(Fetch(BlockKeyOf(0)).status().code(), absl::StatusCode::kNotFound) << "its time is over";
  EXPECT_EQ(*Fetch(BlockKeyOf(1)), Block(1).payload);
  EXPECT_EQ(Fetch(BlockKeyOf(3)).status().code(), absl::StatusCode::kNotFound);
  Start();
  EXPECT_EQ(Fetch(BlockKeyOf(0)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*Fetch(BlockKeyOf(1)), Block(1).payload);
}

TEST_F(StoreDiskTest, DroppingCacheLeavesWhatIsPromisedAndNotYetOnTheDevice) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0, absl::Seconds(10))).ok());
  Start();  // memory has nothing
  clock_.Advance(60);
  disk::Gate syncs(Operation::kSync);
  files_.SetFault(syncs.Fault());
  const ObjectKey keys[] = {BlockKeyOf(0)};
  ASSERT_TRUE(store_->Touch(keys, clock_.WallNow() + absl::Hours(10), clock_.WallNow()).retained[0]);
  EXPECT_EQ(store_->DropCache(keys, clock_.WallNow()).n_dropped, 0u);
  syncs.LetAll();
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), Block(0).payload);
  files_.SetFault(nullptr);
  Start();
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), Block(0).payload);
}

TEST_F(StoreDiskTest, AParkThatWaitsForTheDiskEndsWithItsObject) {
  Start(/*n_in_memory=*/100, /*n_segments=*/40, /*encrypted=*/false, /*queue_bytes=*/4 * (kPayload + 5000));
  disk::Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  // As much as the queue takes and more: the last ones wait for room.
  constexpr uint64_t kMany = 25;
  for (uint64_t id = 1; id <= kMany; ++id) ASSERT_TRUE(*Put(ParkedBlock(id)));
  writes.Await(1);
  const ObjectKey keys[] = {BlockKeyOf(kMany)};
  std::promise<TouchResult> durable;
  store_->Touch(keys, clock_.WallNow() + absl::Hours(2), clock_.WallNow(),
                [&durable](const TouchResult& result) { durable.set_value(result); });
  store_->Drop(keys);
  ASSERT_TRUE(*Put(Block(kMany))) << "somebody else's, as cache";
  writes.LetAll();
  EXPECT_FALSE(durable.get_future().get().retained[0]);
  // Behind all that waited.
  ASSERT_TRUE(PutDurably(ParkedBlock(1000)).ok());
  EXPECT_EQ(store_->DropCache(keys, clock_.WallNow()).n_dropped, 1u) << "it is cache";
}

TEST_F(StoreDiskTest, ParkedSessionsSurviveARestart) {
  Start();
  for (uint64_t id = 0; id < 10; ++id) ASSERT_TRUE(PutDurably(ParkedBlock(id)).ok());
  Object checkpoint = Parked(MakeObject(9, 9, 2560, 5000, ObjectKind::kCheckpoint), clock_.WallNow() + absl::Hours(1));
  ASSERT_TRUE(PutDurably(checkpoint).ok());
  Start();
  EXPECT_FALSE(InMemory(0));
  EXPECT_EQ(Present(0, 20), 10u);
  LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
  for (uint64_t id = 0; id < 10; ++id) query.chain.push_back(Hash(id));
  const LookupResult found = *store_->Lookup(query);
  ASSERT_EQ(found.checkpoints.size(), 1u);
  EXPECT_EQ(found.checkpoints[0].depth_tokens, 2560u);
  for (uint64_t id = 0; id < 10; ++id) EXPECT_EQ(*Fetch(BlockKeyOf(id)), Block(id).payload);
  EXPECT_EQ(*Fetch(checkpoint.head.key), checkpoint.payload);
  EXPECT_TRUE(InMemory(0)) << "what was read is in memory while there is room";
}

TEST_F(StoreDiskTest, WhatTheDiskRetainsMemoryMayEvict) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
  EXPECT_EQ(store_->Stats(clock_.WallNow()).parked_bytes, 0u) << "the disk's promise now";
  // More than memory could ever hold as parked.
  for (uint64_t id = 100; id < 180; ++id) {
    const absl::Status status = PutDurably(ParkedBlock(id));
    ASSERT_TRUE(status.ok()) << id << ": " << status;
  }
  for (uint64_t id = 100; id < 180; ++id) EXPECT_EQ(*Fetch(BlockKeyOf(id)), Block(id).payload) << id;
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), Block(0).payload);
}

TEST_F(StoreDiskTest, ADurableAnswerIsNeverGivenWithoutTheDisk) {
  Start();
  files_.SetFault([](Operation operation) {
    return operation == Operation::kSync ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(PutDurably(ParkedBlock(0)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), Block(0).payload) << "what memory promised holds";
  EXPECT_GT(store_->Stats(clock_.WallNow()).parked_bytes, 0u);
  EXPECT_TRUE(Put(Block(1)).ok()) << "the node goes on";

  auto memory_only = std::move(*Store::Create({.capacity_bytes = 8 << 20}));
  Answer answer;
  auto opened = memory_only->Open(ParkedBlock(5).head, clock_.WallNow(), answer.Done());
  auto& reservation = std::get<Store::Reservation>(*opened);
  ASSERT_TRUE(reservation.Append(0, Block(5).payload).ok());
  ASSERT_TRUE(memory_only->Commit(std::move(reservation), clock_.WallNow(), answer.Done()).ok());
  EXPECT_EQ(answer.Wait().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(StoreDiskTest, AFullParkedShareOfTheDiskIsSaid) {
  Start(60, /*n_segments=*/4);
  absl::Status status;
  uint64_t id = 0;
  for (; id < 100 && status.ok(); ++id) status = PutDurably(ParkedBlock(id));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  for (uint64_t kept = 0; kept + 1 < id; ++kept) EXPECT_EQ(*Fetch(BlockKeyOf(kept)), Block(kept).payload);
}

TEST_F(StoreDiskTest, WhatMemoryEvictsTwiceIsReadFromDisk) {
  Start();
  const auto round = [&] {
    for (uint64_t id = 1000; id < 1300; id += 3) ASSERT_TRUE(Put(MakeObject(id, kRoot, 256, kPayload)).ok()) << id;
  };
  round();
  round();
  round();
  while (tier_->Stats().queued_bytes > 0) std::this_thread::yield();
  EXPECT_GT(tier_->Stats().n_put, 20u);
  int n_from_disk = 0;
  for (uint64_t id = 1000; id < 1300; id += 3) {
    n_from_disk += InMemory(id) ? 0 : 1;
    const auto got = Fetch(BlockKeyOf(id));
    if (got.ok()) {
      EXPECT_EQ(*got, MakeObject(id, kRoot, 256, kPayload).payload);
    }
  }
  EXPECT_GT(n_from_disk, 20);
  EXPECT_GT(tier_->Stats().n_hits, 20u);
}

TEST_F(StoreDiskTest, AnObjectOnDiskExistsForItsNextWriter) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0, absl::Seconds(10))).ok());
  Start();
  Object other = ParkedBlock(0, absl::Hours(2));
  Answer extended;
  auto opened = store_->Open(other.head, clock_.WallNow(), extended.Done());
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(std::get<Store::Exists>(*opened).digest, Block(0).head.digest);
  ASSERT_TRUE(extended.Wait().ok());
  EXPECT_EQ(tier_->index().Find(BlockKeyOf(0))->head.retain_until, other.head.retain_until);
  other.head.fingerprint = FingerprintOf(2);
  EXPECT_EQ(store_->Open(other.head, clock_.WallNow()).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(StoreDiskTest, TheFirstWriterWinsAlsoIfTheDiskGetsHisObjectWhileTheSecondSends) {
  Start();
  const Object first = Block(0);
  Object second = ParkedBlock(0);
  second.payload = RandomBytes(99, kPayload);
  second.head.digest = DigestOf(second.payload);
  auto opened = store_->Open(second.head, clock_.WallNow());
  ASSERT_TRUE(opened.ok()) << opened.status();
  auto& reservation = std::get<Store::Reservation>(*opened);
  disk::AlignedBuffer buffer = disk::DiskTier::BufferFor(kPayload);
  std::ranges::copy(first.payload, disk::DiskTier::PayloadOf(buffer, kPayload).begin());
  Answer written;
  tier_->Put(first.head, std::move(buffer), written.Done());
  ASSERT_TRUE(written.Wait().ok());
  ASSERT_TRUE(reservation.Append(0, second.payload).ok());
  Answer durable;
  const auto committed = store_->Commit(std::move(reservation), clock_.WallNow(), durable.Done());
  ASSERT_TRUE(committed.ok()) << committed.status();
  ASSERT_TRUE(std::holds_alternative<Store::Exists>(*committed));
  EXPECT_EQ(std::get<Store::Exists>(*committed).digest, first.head.digest);
  EXPECT_TRUE(durable.Wait().ok());
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), first.payload);
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_reservations, 0u);
}

TEST_F(StoreDiskTest, TheFirstWriterWinsAlsoWhileHisObjectIsOnItsWayToTheDisk) {
  Start(/*n_in_memory=*/60);
  const Object first = Block(0);
  const auto round = [&] {
    for (uint64_t id = 1000; id < 1300; id += 3) ASSERT_TRUE(Put(MakeObject(id, kRoot, 256, kPayload)).ok()) << id;
  };
  ASSERT_TRUE(*Put(first));
  round();
  ASSERT_FALSE(InMemory(0));
  ASSERT_TRUE(*Put(first));
  disk::Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  round();
  ASSERT_FALSE(InMemory(0)) << "evicted twice";
  writes.Await(1);
  Object second = Block(0);
  second.payload = RandomBytes(99, kPayload);
  second.head.digest = DigestOf(second.payload);
  EXPECT_FALSE(*Put(second));
  EXPECT_EQ(Put(Parked(second, clock_.WallNow() + absl::Hours(1))).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(*Put(first)) << "the same bytes are welcome";
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_reservations, 0u);
  const ObjectKey keys[] = {BlockKeyOf(0)};
  EXPECT_GE(store_->Drop(keys).n_dropped, 1u);
  EXPECT_TRUE(*Put(second)) << "he is the first now";
  writes.LetAll();
  files_.SetFault(nullptr);
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), second.payload);
}

TEST_F(StoreDiskTest, WhatTheDiskDoesNotGiveIsNoHit) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
  Start();
  ASSERT_TRUE(Fetch(BlockKeyOf(0)).ok());
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_hits, 1u);
  Start();
  files_.SetFault([](Operation operation) {
    return operation == Operation::kRead ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_FALSE(Fetch(BlockKeyOf(0)).ok());
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_hits, 0u);
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_misses, 1u);
}

TEST_F(StoreDiskTest, ADurableTouchIsAnsweredWhenTheDiskHasItAll) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0, absl::Seconds(10))).ok());
  ASSERT_TRUE(*Put(Block(1)));
  const ObjectKey keys[] = {BlockKeyOf(0), BlockKeyOf(1), BlockKeyOf(2)};
  const auto touch = [&] {
    std::promise<TouchResult> promise;
    store_->Touch(keys, clock_.WallNow() + absl::Hours(1), clock_.WallNow(),
                  [&](TouchResult result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  };
  EXPECT_EQ(touch().retained, (std::vector<bool>{true, true, false}));
  EXPECT_EQ(touch().n_present, 2u);
  EXPECT_EQ(touch().n_refused, 0u) << "what is not there is not refused";
  Start();
  clock_.Advance(60);
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), Block(0).payload);
  EXPECT_EQ(*Fetch(BlockKeyOf(1)), Block(1).payload);
  files_.SetFault([](Operation operation) {
    return operation == Operation::kSync ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  ASSERT_TRUE(*Put(Block(2)));
  const TouchResult refused = touch();
  EXPECT_FALSE(refused.retained[2]);
  EXPECT_GE(refused.n_refused, 1u);
}

TEST_F(StoreDiskTest, WhatTheDiskHasNotSyncedMemoryHolds) {
  Start();
  disk::Gate syncs(Operation::kSync);
  files_.SetFault(syncs.Fault());
  const Object object = ParkedBlock(0);
  ASSERT_TRUE(*Put(object));
  syncs.Await(1);
  std::promise<TouchResult> touched;
  store_->Touch(std::span(&object.head.key, 1), object.head.retain_until, clock_.WallNow(),
                [&](TouchResult result) { touched.set_value(std::move(result)); });
  EXPECT_GT(store_->Stats(clock_.WallNow()).parked_bytes, 0u);
  syncs.LetAll(absl::DataLossError("EIO"));
  EXPECT_EQ(touched.get_future().get().retained, std::vector<bool>{false});
  for (uint64_t id = 1000; id < 1300; id += 3) (void)Put(MakeObject(id, kRoot, 256, kPayload));
  EXPECT_TRUE(Fetch(BlockKeyOf(0)).ok());
}

// More than its queue takes.
TEST_F(StoreDiskTest, ADurableAnswerWaitsForADiskThatIsBehind) {
  constexpr uint64_t kObjects = 100;
  Start(/*n_in_memory=*/300, /*n_segments=*/40, /*encrypted=*/false, /*queue_bytes=*/4 * (kPayload + 5000));
  disk::Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  std::vector<ObjectKey> keys;
  for (uint64_t id = 0; id < kObjects; ++id) {
    ASSERT_TRUE(*Put(ParkedBlock(id)));
    keys.push_back(BlockKeyOf(id));
  }
  writes.Await(1);
  const absl::Time until = clock_.WallNow() + absl::Hours(2);
  const auto touch = [&](std::promise<TouchResult>& touched) {
    store_->Touch(keys, until, clock_.WallNow(), [&](TouchResult result) { touched.set_value(std::move(result)); });
  };
  std::promise<TouchResult> first;
  std::promise<TouchResult> second;
  touch(first);
  touch(second);
  EXPECT_LE(tier_->Stats().queued_bytes, 4 * (kPayload + 5000));
  writes.LetAll();
  EXPECT_EQ(first.get_future().get().retained, std::vector<bool>(kObjects, true));
  EXPECT_EQ(second.get_future().get().retained, std::vector<bool>(kObjects, true));
  EXPECT_EQ(tier_->Stats().n_put, kObjects);
  EXPECT_EQ(store_->Stats(clock_.WallNow()).parked_bytes, 0u);
  Start(60, 40);
  for (const ObjectKey& key : keys) EXPECT_EQ(tier_->index().Find(key)->head.retain_until, until);
}

TEST_F(StoreDiskTest, WhatWaitsForTheDiskIsWrittenBeforeTheStoreEnds) {
  Start(/*n_in_memory=*/100, /*n_segments=*/40, /*encrypted=*/false, /*queue_bytes=*/4 * (kPayload + 5000));
  disk::Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  for (uint64_t id = 0; id < 40; ++id) ASSERT_TRUE(*Put(ParkedBlock(id)));
  const ObjectKey dropped[] = {BlockKeyOf(39)};
  Answer longer;
  ASSERT_FALSE(*Put(ParkedBlock(0, absl::Hours(3)), longer.Done()));
  store_->Drop(dropped);
  writes.LetAll();
  Start(60, 40);
  EXPECT_TRUE(longer.IsOk());
  EXPECT_EQ(Present(0, 40), 39u);
}

TEST_F(StoreDiskTest, ManifestsAreListedFromBothTiers) {
  Start();
  for (const uint64_t id : {5, 3, 9}) {
    const Object manifest = MakeObject(id, kRoot, 256, 1000, ObjectKind::kManifest);
    ASSERT_TRUE(PutDurably(Parked(manifest, clock_.WallNow() + absl::Hours(1))).ok());
  }
  Start();
  ASSERT_TRUE(*Put(MakeObject(4, kRoot, 256, 1000, ObjectKind::kManifest)));
  ASSERT_TRUE(Fetch({Hash(3), ObjectKind::kManifest}).ok()) << "and is in both now";
  const auto list = [&](ListQuery query) {
    std::vector<BlockKey> hashes;
    const auto listed = store_->List(query);
    for (const ObjectHead& head : listed.value().heads) hashes.push_back(head.key.hash);
    return hashes;
  };
  EXPECT_EQ(list({.parent = Hash(kRoot)}), (std::vector{Hash(3), Hash(4), Hash(5), Hash(9)}));
  EXPECT_EQ(list({.parent = Hash(kRoot), .after = Hash(3), .limit = 2}), (std::vector{Hash(4), Hash(5)}));
  EXPECT_TRUE(store_->List({.parent = Hash(kRoot), .limit = 3})->more);
  EXPECT_FALSE(store_->List({.parent = Hash(kRoot), .limit = 4})->more);
  const ObjectKey keys[] = {{Hash(5), ObjectKind::kManifest}};
  store_->Drop(keys);
  EXPECT_EQ(list({.parent = Hash(kRoot), .hash_prefix = std::string(1, 5)}).size(), 0u);
}

TEST_F(StoreDiskTest, TouchAndDropReachBothTiers) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0, absl::Seconds(10))).ok());
  ASSERT_TRUE(PutDurably(ParkedBlock(1, absl::Seconds(10))).ok());
  ASSERT_TRUE(*Put(Block(2)));
  Start();
  ASSERT_TRUE(*Put(Block(2)));
  const ObjectKey keys[] = {BlockKeyOf(0), BlockKeyOf(1), BlockKeyOf(2), BlockKeyOf(3)};
  const TouchResult touched = store_->Touch(keys, clock_.WallNow() + absl::Hours(1), clock_.WallNow());
  EXPECT_EQ(touched.n_present, 3u);
  EXPECT_EQ(touched.n_refused, 0u);
  EXPECT_EQ(store_->Drop(std::span(keys).subspan(1, 1)).n_dropped, 1u);
  EXPECT_EQ(Present(0, 3), 1u);
  Start();
  clock_.Advance(60);
  EXPECT_EQ(*Fetch(BlockKeyOf(0)), Block(0).payload);
  EXPECT_EQ(Fetch(BlockKeyOf(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*Fetch(BlockKeyOf(2)), Block(2).payload) << "parked by Touch, so written to disk";
  EXPECT_EQ(store_->DropNamespace("ns").n_dropped > 0, true);
  Start();
  EXPECT_EQ(Present(0, 3), 0u);
}

TEST_F(StoreDiskTest, WhatIsDroppedWhileItIsReadDoesNotComeBack) {
  for (const bool whole_namespace : {false, true}) {
    Start();
    ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
    Start();
    std::promise<void> stall;
    std::promise<void> reading;
    const std::shared_future<void> stalled(stall.get_future());
    std::atomic<bool> first = true;
    files_.SetFault([&, stalled](Operation operation) {
      if (operation == Operation::kRead && first.exchange(false)) {
        reading.set_value();
        stalled.wait();
      }
      return absl::OkStatus();
    });
    std::promise<void> fetched;
    store_->Fetch(BlockKeyOf(0), FingerprintOf(1), [&](const absl::StatusOr<Store::Reader>&) { fetched.set_value(); });
    reading.get_future().wait();
    const ObjectKey keys[] = {BlockKeyOf(0)};
    EXPECT_EQ((whole_namespace ? store_->DropNamespace("ns") : store_->Drop(keys)).n_dropped, 1u);
    stall.set_value();
    fetched.get_future().wait();
    EXPECT_EQ(Fetch(BlockKeyOf(0)).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(Present(0, 1), 0u);
    files_.SetFault(nullptr);
    Start();
    EXPECT_EQ(Present(0, 1), 0u);
  }
}

// What was evicted, or parked, is on its way to the disk while its namespace is removed: behind the removal it would be
// there under a new key.
TEST_F(StoreDiskTest, NothingOfARemovedNamespaceGetsANewKey) {
  Start(60, 20, /*encrypted=*/true);
  const auto in = [](const char* namespace_id, uint64_t id) {
    Object object = MakeObject(id, kRoot, 256, kPayload);
    object.head.namespace_id = namespace_id;
    return object;
  };
  const std::string key_path = "/disk/keys/" + disk::ShortHashHex("gone") + ".key";
  uint64_t n_with_key = 0;
  for (uint64_t round = 0; round < 60; ++round) {
    // Seen before from the second round on: what memory evicts of them goes to the disk.
    for (uint64_t id = 0; id < 50; ++id) ASSERT_TRUE(Put(in("gone", id)).ok());
    std::thread evicting([&] {
      for (uint64_t id = 0; id < 50; ++id) (void)Put(in("kept", 1000 + round * 50 + id));
    });
    std::thread parking([&] {
      for (uint64_t id = 0; id < 50; ++id) {
        const ObjectKey keys[] = {BlockKeyOf(id)};
        store_->Touch(keys, clock_.WallNow() + absl::Minutes(1), clock_.WallNow());
      }
    });
    while (tier_->Stats().n_data_keys == 0 && round > 0) std::this_thread::yield();
    n_with_key += tier_->Stats().n_data_keys > 0 ? 1 : 0;
    store_->DropNamespace("gone");
    evicting.join();
    parking.join();
    // Behind all that is queued.
    const ObjectKey nothing[] = {BlockKeyOf(999999)};
    Answer reached;
    tier_->Drop(nothing, reached.Done());
    ASSERT_TRUE(reached.Wait().ok());
    const std::vector<std::string> paths = files_.Paths();
    ASSERT_EQ(std::count(paths.begin(), paths.end(), key_path), 0) << "round " << round;
  }
  EXPECT_GT(n_with_key, 50u);
}

// While it is on its way to the disk, from which nothing of it may come back; and what is put again meanwhile stays.
TEST_F(StoreDiskTest, WhatIsDroppedInTheDisksQueueDoesNotComeBack) {
  for (const bool whole_namespace : {false, true}) {
    for (const bool put_again : {false, true}) {
      Start(60, 20, /*encrypted=*/whole_namespace);
      ASSERT_TRUE(PutDurably(ParkedBlock(7)).ok()) << "and its namespace has a key";
      disk::Gate writes(Operation::kWrite);
      files_.SetFault(writes.Fault());
      // X, and behind it what stops the writer before it comes to the removal.
      ASSERT_TRUE(*Put(ParkedBlock(0)));
      writes.Await(1);
      Object other = MakeObject(5000, kRoot, 256, kPayload);
      other.head.namespace_id = "other";
      ASSERT_TRUE(*Put(Parked(other, clock_.WallNow() + absl::Hours(1))));
      const ObjectKey keys[] = {BlockKeyOf(0)};
      EXPECT_GE((whole_namespace ? store_->DropNamespace("ns") : store_->Drop(keys)).n_dropped, 1u);
      writes.LetOne();
      writes.Await(2);
      EXPECT_EQ(Fetch(BlockKeyOf(0)).status().code(), absl::StatusCode::kNotFound);
      EXPECT_EQ(Present(0, 1), 0u);
      if (put_again) {
        EXPECT_TRUE(*Put(ParkedBlock(0))) << "it is not there";
      }
      writes.LetAll();
      const ObjectKey nothing[] = {BlockKeyOf(999999)};
      Answer reached;
      tier_->Drop(nothing, reached.Done());
      ASSERT_TRUE(reached.Wait().ok());
      for (int restart = 0; restart < 2; ++restart) {
        const auto got = Fetch(BlockKeyOf(0));
        EXPECT_EQ(got.status().code(), put_again ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
        files_.SetFault(nullptr);
        Start(60, 20, /*encrypted=*/whole_namespace);
      }
      files_.SetFault(nullptr);
      store_.reset();
      for (const std::string& path : files_.Paths()) (void)files_.Remove(path);
    }
  }
}

TEST_F(StoreDiskTest, ARemovalIsNotRefusedBehindWhateverElseTheDiskHasToWrite) {
  Start(60, 20, /*encrypted=*/true);
  ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
  disk::Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  ASSERT_TRUE(*Put(ParkedBlock(1)));
  writes.Await(1);
  absl::Status touched;
  for (int64_t i = 1; i < 400'000 && touched.ok(); ++i) {
    touched = tier_->Touch(BlockKeyOf(0), clock_.WallNow() + absl::Hours(1) + absl::Milliseconds(i), nullptr);
  }
  EXPECT_EQ(touched.code(), absl::StatusCode::kUnavailable);
  Answer dropped;
  store_->DropNamespace("ns", dropped.Done());
  EXPECT_FALSE(dropped.IsThere());
  writes.LetAll();
  EXPECT_TRUE(dropped.Wait().ok());
  const std::vector<std::string> paths = files_.Paths();
  EXPECT_EQ(std::count(paths.begin(), paths.end(), "/disk/keys/" + disk::ShortHashHex("ns") + ".key"), 0);
  Start(60, 20, /*encrypted=*/true);
  EXPECT_EQ(Present(0, 2), 0u);
}

TEST_F(StoreDiskTest, ARemovalThatIsNotWrittenIsSaid) {
  for (const bool whole_namespace : {false, true}) {
    for (const auto& failure : {absl::DataLossError("EIO"), absl::ResourceExhaustedError("no space")}) {
      Start();
      ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
      files_.SetFault([&](Operation operation) { return operation == Operation::kWrite ? failure : absl::OkStatus(); });
      for (int again = 0; again < 2; ++again) {
        Answer dropped;
        const ObjectKey keys[] = {BlockKeyOf(0)};
        if (whole_namespace) {
          store_->DropNamespace("ns", dropped.Done());
        } else {
          store_->Drop(keys, dropped.Done());
        }
        EXPECT_FALSE(dropped.Wait().ok());
        EXPECT_EQ(Present(0, 1), 0u) << "gone at once all the same";
      }
      files_.SetFault(nullptr);
    }
  }
}

// Said again every minute by every router: that must not cost a write each time.
TEST_F(StoreDiskTest, RetiringRemovesFromTheDiskOnceAndWritesNothingWhenThereIsNothing) {
  Start(60, 20, /*encrypted=*/true);
  const auto put = [&](uint64_t id, const char* namespace_id) {
    Object object = ParkedBlock(id);
    object.head.namespace_id = namespace_id;
    return PutDurably(object);
  };
  const NamespaceDrop deletion{.id = "alice", .before_generation = 1'700'000'000'000, .retire = true};
  for (const char* id : {"alice", "alice:u1", "alice2"})
    ASSERT_TRUE(put(id[5] == 0 ? 0 : id[5] == ':' ? 100 : 200, id).ok());
  Start(60, 20, /*encrypted=*/true);
  EXPECT_EQ(tier_->Stats().n_data_keys, 3u);
  EXPECT_EQ(store_->DropGenerations(deletion, clock_.WallNow()).n_dropped, 2u);
  EXPECT_EQ(Present(0, 1) + Present(100, 1), 0u);
  EXPECT_EQ(Present(200, 1), 1u);
  // What is written when all that was asked for before is.
  const auto n_written = [&] {
    Answer reached;
    const ObjectKey nothing[] = {BlockKeyOf(999999)};
    tier_->Drop(nothing, reached.Done());
    EXPECT_TRUE(reached.Wait().ok());
    return tier_->Stats().log.bytes_written;
  };
  const uint64_t once = n_written();
  EXPECT_EQ(tier_->Stats().n_data_keys, 1u);
  const uint64_t n_per_question = n_written() - once;
  for (const char* name : {"alice", "carol"}) {
    store_->DropGenerations({.id = name, .before_generation = 1'700'000'000'000, .retire = true}, clock_.WallNow());
  }
  EXPECT_EQ(n_written(), once + 2 * n_per_question);
  EXPECT_TRUE(IsNamespaceDeleted(put(100, "alice:u1")));
  Start(60, 20, /*encrypted=*/true);
  EXPECT_EQ(Present(0, 1) + Present(100, 1), 0u);
  EXPECT_EQ(Present(200, 1), 1u);
}

// What was evicted is in no index while it is on its way.
TEST_F(StoreDiskTest, RetiringFindsWhatIsOnItsWayToTheDisk) {
  Start(60, 20, /*encrypted=*/true);
  std::promise<void> stall;
  const std::shared_future<void> stalled(stall.get_future());
  std::promise<void> writing;
  std::atomic<bool> first = true;
  files_.SetFault([&, stalled](Operation operation) {
    if (operation == Operation::kWrite && first.exchange(false)) {
      writing.set_value();
      stalled.wait();
    }
    return absl::OkStatus();
  });
  std::vector<Answer> answers(2);
  const char* const ids[] = {"alice:u1", "alice:u2"};  // one is being written, one is queued
  for (uint64_t i = 0; i < 2; ++i) {
    Object object = ParkedBlock(i * 100);
    object.head.namespace_id = ids[i];
    ASSERT_TRUE(Put(object, answers[i].Done()).ok());
    if (i == 0) writing.get_future().wait();
  }
  EXPECT_EQ(
      store_->DropGenerations({.id = "alice", .before_generation = 9, .retire = true}, clock_.WallNow()).n_dropped, 2u);
  stall.set_value();
  for (Answer& answer : answers) (void)answer.Wait();
  Answer reached;
  const ObjectKey nothing[] = {BlockKeyOf(999999)};
  tier_->Drop(nothing, reached.Done());
  ASSERT_TRUE(reached.Wait().ok());
  files_.SetFault(nullptr);
  EXPECT_EQ(tier_->Stats().n_data_keys, 0u);
  Start(60, 20, /*encrypted=*/true);
  EXPECT_EQ(Present(0, 1) + Present(100, 1), 0u);
}

TEST_F(StoreDiskTest, DamageOnDiskIsReportedAndGone) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
  Start();
  const disk::Place place = tier_->index().Find(BlockKeyOf(0))->place;
  files_.Bytes("/disk/segment-00000" + std::to_string(place.slot))[place.offset + 5000] ^= std::byte{4};
  EXPECT_EQ(Fetch(BlockKeyOf(0)).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Fetch(BlockKeyOf(0)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(PutDurably(ParkedBlock(0)).ok());
}

TEST_F(StoreDiskTest, WhatChangesInMemoryOnItsWayToTheDiskIsNotMadeDurable) {
  Start(/*n_in_memory=*/100, /*n_segments=*/40, /*encrypted=*/false, /*queue_bytes=*/4 * (kPayload + 5000));
  disk::Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  constexpr uint64_t kMany = 20;
  std::vector<Answer> answers(kMany);
  for (uint64_t id = 0; id < kMany; ++id) ASSERT_TRUE(*Put(ParkedBlock(id), answers[id].Done()));
  // The last of them waits for room and is copied later.
  ASSERT_TRUE(store_->FlipBitForTest(BlockKeyOf(kMany - 1), 8 * 5000));
  writes.LetAll();
  EXPECT_EQ(answers[kMany - 1].Wait().code(), absl::StatusCode::kDataLoss);
  for (uint64_t id = 0; id + 1 < kMany; ++id) EXPECT_TRUE(answers[id].Wait().ok()) << id;
  EXPECT_EQ(Fetch(BlockKeyOf(kMany - 1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_quarantined, 1u);
  EXPECT_EQ(store_->Stats(clock_.WallNow()).parked_bytes, 0u);
  ASSERT_TRUE(PutDurably(ParkedBlock(kMany - 1)).ok()) << "its writer puts it again";
  Start(60, 40);
  EXPECT_EQ(*Fetch(BlockKeyOf(kMany - 1)), Block(kMany - 1).payload);
}

TEST_F(StoreDiskTest, WhatChangedInMemoryIsNotEvictedToTheDisk) {
  Start();
  const auto round = [&] {
    for (uint64_t id = 1000; id < 1300; id += 3) ASSERT_TRUE(Put(MakeObject(id, kRoot, 256, kPayload)).ok()) << id;
  };
  round();  // the disk has seen all of them once
  std::vector<uint64_t> changed;
  for (uint64_t id = 1000; id < 1300; id += 3) {
    ASSERT_TRUE(Put(MakeObject(id, kRoot, 256, kPayload)).ok());
    if (!tier_->index().Find(BlockKeyOf(id)).has_value() && store_->FlipBitForTest(BlockKeyOf(id), 7)) {
      changed.push_back(id);
    }
  }
  for (uint64_t id = 2000; id < 2300; id += 3) ASSERT_TRUE(Put(MakeObject(id, kRoot, 256, kPayload)).ok()) << id;
  const ObjectKey nothing[] = {BlockKeyOf(999999)};
  Answer reached;
  tier_->Drop(nothing, reached.Done());
  ASSERT_TRUE(reached.Wait().ok()) << "behind all that is queued";
  EXPECT_GT(store_->Stats(clock_.WallNow()).n_quarantined, 20u);
  for (const uint64_t id : changed) EXPECT_FALSE(tier_->index().Find(BlockKeyOf(id)).has_value()) << id;
}

TEST_F(StoreDiskTest, NobodyButAFetchWaitsForAStalledDisk) {
  Start();
  ASSERT_TRUE(PutDurably(ParkedBlock(0)).ok());
  Start();
  std::promise<void> stall;
  const std::shared_future<void> stalled(stall.get_future());
  files_.SetFault([stalled](Operation) {
    stalled.wait();
    return absl::OkStatus();
  });
  std::promise<absl::Status> fetched;
  store_->Fetch(BlockKeyOf(0), FingerprintOf(1),
                [&](const absl::StatusOr<Store::Reader>& found) { fetched.set_value(found.status()); });
  EXPECT_EQ(Present(0, 1), 1u);
  for (uint64_t id = 100; id < 150; ++id) EXPECT_TRUE(Put(MakeObject(id, kRoot, 256, kPayload)).ok());
  EXPECT_TRUE(*Put(ParkedBlock(1)));
  EXPECT_EQ(*Fetch(BlockKeyOf(1)), Block(1).payload) << "from memory";
  stall.set_value();
  EXPECT_TRUE(fetched.get_future().get().ok());
}

// With a queue that takes nearly all, and with one that is always full.
class StoreDiskThreads : public StoreDiskTest, public ::testing::WithParamInterface<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Queue, StoreDiskThreads, ::testing::Values(128 << 20, 2 * kPayload));

TEST_P(StoreDiskThreads, SeeWholeObjectsInBothTiers) {
  Start(50, 8, /*encrypted=*/false, /*queue_bytes=*/GetParam());
  std::atomic<int> n_wrong = 0;
  std::atomic<int> n_read = 0;
  const auto run = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int step = 0; step < 300; ++step) {
      const uint64_t id = random() % 120;
      Object object = MakeObject(id, kRoot, 256, 1000 + id * 150);
      if (random() % 4 == 0) object = Parked(object, clock_.WallNow() + absl::Seconds(1));
      const ObjectKey keys[] = {object.head.key};
      switch (random() % 8) {
        case 0:
          store_->Drop(keys);
          break;
        case 1:
          store_->Touch(keys, clock_.WallNow() + absl::Seconds(1), clock_.WallNow());
          clock_.Advance(1);
          break;
        case 2:
        case 3:
        case 4:
          (void)Put(object);
          break;
        default: {
          const auto got = Fetch(object.head.key);
          if (got.ok()) {
            ++n_read;
            if (*got != object.payload) ++n_wrong;
          } else if (got.status().code() == absl::StatusCode::kDataLoss) {
            ++n_wrong;
          }
          const StoreStats stats = store_->Stats(clock_.WallNow());
          if (stats.used_bytes + stats.reserved_bytes > stats.capacity_bytes) ++n_wrong;
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 5; ++seed) threads.emplace_back(run, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_wrong, 0);
  EXPECT_GT(n_read, 50);
}

}  // namespace
}  // namespace longshelf::kvstore
