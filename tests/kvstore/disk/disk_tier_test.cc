#include "disk/disk_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <future>

#include "disk/crc32c.h"
#include "disk/posix_file_system.h"
#include "disk_fixture.h"
#include "memory_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

using Operation = MemoryFileSystem::Operation;
constexpr uint64_t kRoot = 1u << 30;
constexpr size_t kPayload = 30000;

class DiskTierTest : public ::testing::Test {
 protected:
  void Start(const DiskOptions& options = SmallDisk()) {
    tier_.reset();
    auto tier = OpenTier(options, files_, clock_);
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }

  Object Cached(uint64_t id) { return MakeObject(id, kRoot, 256, kPayload); }
  Object Retained(uint64_t id, int64_t seconds = 3600) {
    return Parked(Cached(id), clock_.WallNow() + absl::Seconds(seconds));
  }
  bool Has(uint64_t id) { return Get(*tier_, BlockKeyOf(id)).ok(); }

  MemoryFileSystem files_;
  DatedClock clock_;
  std::unique_ptr<DiskTier> tier_;
};

TEST_F(DiskTierTest, GivesBackWhatWasPutBeforeAndAfterARestart) {
  Start();
  std::vector<Object> objects;
  for (const size_t n :
       {size_t{1}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{65536}, size_t{65537}, size_t{200000}}) {
    objects.push_back(MakeObject(n, kRoot, 256, n));
    ASSERT_TRUE(PutAndWait(*tier_, objects.back()).ok());
  }
  for (int restart = 0; restart < 2; ++restart) {
    for (const Object& object : objects) {
      const auto got = Get(*tier_, object.head.key);
      ASSERT_TRUE(got.ok()) << got.status() << " of " << object.payload.size();
      EXPECT_EQ(*got, object.payload);
    }
    Start();
  }
  EXPECT_EQ(Get(*tier_, BlockKeyOf(12345)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(tier_->Read(objects[0].head.key, FingerprintOf(2)).ok()) << "another fingerprint";
}

TEST_F(DiskTierTest, ARetentionThatIsWrittenIsNotDurableBeforeItIsSynced) {
  Start();
  std::promise<void> written;
  std::promise<void> go;
  files_.SetFault([&, wait = go.get_future().share(), is_first = true](Operation operation) mutable {
    if (operation != Operation::kSync) return absl::OkStatus();
    if (std::exchange(is_first, false)) written.set_value();
    wait.wait();
    return absl::UnavailableError("the device failed");
  });
  const Object object = Retained(1);
  Answer put;
  Put(*tier_, object, put.Done());
  written.get_future().wait();
  Answer touched;
  ASSERT_TRUE(tier_->Touch(object.head.key, object.head.retain_until, touched.Done()).ok());
  go.set_value();
  EXPECT_FALSE(put.Wait().ok());
  EXPECT_FALSE(touched.Wait().ok());
}

class RealFiles : public DiskTierTest, public ::testing::WithParamInterface<WriteMethod> {};
INSTANTIATE_TEST_SUITE_P(Auto, RealFiles, ::testing::Values(WriteMethod::kAuto));
INSTANTIATE_TEST_SUITE_P(Pwrite, RealFiles, ::testing::Values(WriteMethod::kPwrite));

// Several puts are under way at once, so that records are written in groups.
TEST_P(RealFiles, HoldWhatWasPut) {
  const std::string directory =
      ::testing::TempDir() + (GetParam() == WriteMethod::kAuto ? "/disk_tier_test" : "/disk_tier_test_pwrite");
  std::filesystem::remove_all(directory);
  const auto files = MakePosixFileSystem(DirectIo::kAuto, GetParam());
  DiskOptions options = SmallDisk(/*n_segments=*/10);
  options.directory = directory;
  for (int start = 0; start < 3; ++start) {
    auto tier = OpenTier(options, *files, clock_);
    ASSERT_TRUE(tier.ok()) << tier.status();
    EXPECT_EQ(OpenTier(options, *files, clock_).status().code(), absl::StatusCode::kUnavailable) << "one at a time";
    std::vector<Answer> answers(20);
    for (uint64_t id = 0; id < answers.size(); ++id) {
      if (start == 0) Put(**tier, Retained(id), answers[id].Done());
    }
    for (uint64_t id = 0; id < answers.size(); ++id) {
      if (start == 0) {
        ASSERT_TRUE(answers[id].Wait().ok()) << id;
      }
      EXPECT_EQ(*Get(**tier, BlockKeyOf(id)), Cached(id).payload) << id;
    }
  }
  std::filesystem::remove_all(directory);
}

TEST_F(DiskTierTest, TheOldestGoFirstAndTheQuotaHolds) {
  Start();
  for (uint64_t id = 0; id < 200; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  EXPECT_TRUE(Has(199));
  EXPECT_FALSE(Has(0));
  const DiskStats stats = tier_->Stats();
  EXPECT_GT(stats.log.n_evicted, 100u);
  EXPECT_LE(stats.live_bytes, stats.quota_bytes);
  uint64_t n_bytes = 0;
  for (const std::string& path : files_.Paths()) n_bytes += files_.Bytes(path).size();
  EXPECT_EQ(n_bytes, SmallDisk().quota_bytes);
}

TEST_F(DiskTierTest, RetainedObjectsOutliveEveryTurnOfTheDiskUntilTheirTime) {
  Start();
  std::vector<uint64_t> retained;
  for (uint64_t id = 0; id < 400; ++id) {
    if (id % 50 == 0) {
      ASSERT_TRUE(PutAndWait(*tier_, Retained(1000 + id)).ok());
      retained.push_back(1000 + id);
    }
    ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
    if (id == 200) Start();
  }
  for (const uint64_t id : retained) EXPECT_EQ(*Get(*tier_, BlockKeyOf(id)), Cached(id).payload) << id;
  EXPECT_GT(tier_->Stats().log.n_kept, 0u);
  clock_.Advance(3601);
  for (uint64_t id = 2000; id < 2200; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  // Has() counts as a use, and what is used is kept once more; most are gone.
  int n_left = 0;
  for (const uint64_t id : retained) n_left += Has(id) ? 1 : 0;
  EXPECT_LT(n_left, static_cast<int>(retained.size()) / 2 + 1);
  EXPECT_EQ(tier_->Stats().retained_bytes, 0u);
}

// However full the active segment is then: what is read after a restart is used, and there may be no room to keep it.
TEST_F(DiskTierTest, ARestartAndSomeReadsLeaveRoomForTheNextPut) {
  for (uint64_t n = 1; n <= 100; ++n) {
    MemoryFileSystem files;
    auto tier = std::move(*OpenTier(SmallDisk(), files, clock_));
    for (uint64_t id = 0; id < n; ++id) Put(*tier, Cached(id), nullptr);
    tier.reset();
    tier = std::move(*OpenTier(SmallDisk(), files, clock_));
    for (uint64_t id = 0; id < n; ++id) (void)Get(*tier, BlockKeyOf(id));
    ASSERT_TRUE(PutAndWait(*tier, Cached(n)).ok()) << n;
    ASSERT_FALSE(tier->Stats().fenced) << n;
  }
}

TEST_F(DiskTierTest, ARestartAndATouchLeaveRoomForTheNextPut) {
  DiskOptions options = SmallDisk();
  options.parked_share = 1;
  for (uint64_t n = 1; n <= 100; ++n) {
    MemoryFileSystem files;
    auto tier = std::move(*OpenTier(options, files, clock_));
    for (uint64_t id = 0; id < n; ++id) Put(*tier, Cached(id), nullptr);
    tier.reset();
    tier = std::move(*OpenTier(options, files, clock_));
    std::vector<uint64_t> promised;
    for (uint64_t id = 0; id < n && promised.size() < 6; ++id) {
      if (TouchAndWait(*tier, BlockKeyOf(id), clock_.WallNow() + absl::Hours(1)).ok()) promised.push_back(id);
    }
    ASSERT_TRUE(PutAndWait(*tier, Cached(n)).ok()) << n;
    ASSERT_FALSE(tier->Stats().fenced) << n;
    for (const uint64_t id : promised) ASSERT_TRUE(Get(*tier, BlockKeyOf(id)).ok()) << id << " of " << n;
  }
}

TEST_F(DiskTierTest, ATouchedRetentionSurvivesARestart) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  ASSERT_TRUE(PutAndWait(*tier_, Retained(2, 10)).ok());
  for (const uint64_t id : {1, 2}) {
    ASSERT_TRUE(TouchAndWait(*tier_, BlockKeyOf(id), clock_.WallNow() + absl::Hours(1)).ok());
  }
  Start();
  clock_.Advance(600);
  for (uint64_t id = 100; id < 300; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  EXPECT_TRUE(Has(1));
  EXPECT_TRUE(Has(2));
  // Never shortened.
  ASSERT_TRUE(TouchAndWait(*tier_, BlockKeyOf(1), clock_.WallNow() + absl::Seconds(1)).ok());
  EXPECT_GT(tier_->index().Find(BlockKeyOf(1))->head.retain_until, clock_.WallNow() + absl::Minutes(49));
}

TEST_F(DiskTierTest, ATouchIsNotDurableBeforeWhatItNamesIs) {
  Start();
  Gate syncs(Operation::kSync);
  files_.SetFault(syncs.Fault());
  const Object object = Retained(1);
  Answer put;
  Put(*tier_, object, put.Done());
  syncs.Await(1);
  ASSERT_TRUE(tier_->index().Find(BlockKeyOf(1)).has_value());
  Answer touched;
  ASSERT_TRUE(tier_->Touch(BlockKeyOf(1), object.head.retain_until, touched.Done()).ok());
  EXPECT_FALSE(touched.IsThere());
  std::mt19937_64 random(1);
  const auto image = files_.LosePower(random, 0);
  EXPECT_FALSE(Get(**OpenTier(SmallDisk(), *image, clock_), BlockKeyOf(1)).ok());
  syncs.LetAll(absl::DataLossError("no power"));
  EXPECT_EQ(touched.Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_F(DiskTierTest, ATouchThatWasNotDurableIsNotTheNextTimeEither) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Retained(1, 10)).ok());
  std::atomic<int> n_syncs = 0;
  files_.SetFault([&](Operation operation) {
    return operation == Operation::kSync && n_syncs++ == 0 ? absl::DataLossError("EIO once") : absl::OkStatus();
  });
  const absl::Time until = clock_.WallNow() + absl::Hours(1);
  EXPECT_EQ(TouchAndWait(*tier_, BlockKeyOf(1), until).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(TouchAndWait(*tier_, BlockKeyOf(1), until).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(tier_->Touch(BlockKeyOf(1), until, nullptr).code(), absl::StatusCode::kUnavailable) << "no mere promise";
  EXPECT_TRUE(TouchAndWait(*tier_, BlockKeyOf(1), clock_.WallNow() + absl::Seconds(9)).ok()) << "is durable";
  EXPECT_EQ(tier_->index().Find(BlockKeyOf(1))->head.retain_until, Retained(1, 10).head.retain_until);
}

TEST_F(DiskTierTest, ARetentionWhoseRecordFoundNoSpaceIsWrittenTheNextTime) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  files_.SetFault([](Operation operation) {
    return operation == Operation::kWrite ? absl::ResourceExhaustedError("no space") : absl::OkStatus();
  });
  const absl::Time until = clock_.WallNow() + absl::Hours(1);
  EXPECT_EQ(TouchAndWait(*tier_, BlockKeyOf(1), until).code(), absl::StatusCode::kResourceExhausted);
  files_.SetFault(nullptr);
  EXPECT_TRUE(TouchAndWait(*tier_, BlockKeyOf(1), until).ok());
  Start();
  EXPECT_EQ(tier_->index().Find(BlockKeyOf(1))->head.retain_until, until);
}

TEST_F(DiskTierTest, WhatIsNotThereCannotBeRetained) {
  Start();
  EXPECT_EQ(TouchAndWait(*tier_, BlockKeyOf(1), clock_.WallNow() + absl::Hours(1)).code(), absl::StatusCode::kNotFound);
}

// A process that is killed leaves records that nobody has synced.
TEST_F(DiskTierTest, WhatIsFoundAtTheStartIsOnTheDevice) {
  Start();
  files_.SetFault([](Operation operation) {
    return operation == Operation::kSync ? absl::DataLossError("killed") : absl::OkStatus();
  });
  const Object object = Retained(1);
  EXPECT_FALSE(PutAndWait(*tier_, object).ok());
  tier_.reset();
  files_.SetFault(nullptr);
  Start();
  ASSERT_TRUE(Has(1));
  EXPECT_TRUE(TouchAndWait(*tier_, BlockKeyOf(1), object.head.retain_until).ok());
  std::mt19937_64 random(1);
  const auto image = files_.LosePower(random, 0);
  EXPECT_TRUE(Get(**OpenTier(SmallDisk(), *image, clock_), BlockKeyOf(1)).ok());
}

// Of a full disk, what its oldest segment holds; the last put is in the newest one.
TEST_F(DiskTierTest, WhatATouchPromisesIsKeptThoughItsRecordWaits) {
  DiskOptions options = SmallDisk();
  options.parked_share = 1;
  Start(options);
  uint64_t n_put = 0;
  while (tier_->Stats().log.n_evicted == 0) ASSERT_TRUE(PutAndWait(*tier_, Cached(n_put++)).ok());
  Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  std::vector<Answer> answers(20);
  for (uint64_t i = 0; i < answers.size(); ++i) Put(*tier_, Cached(n_put + i), answers[i].Done());
  writes.Await(1);
  std::vector<uint64_t> promised;
  for (uint64_t id = 0; id < n_put && promised.size() < 10; ++id) {
    if (tier_->Touch(BlockKeyOf(id), clock_.WallNow() + absl::Hours(1), nullptr).ok()) promised.push_back(id);
  }
  ASSERT_EQ(promised.size(), 10u);
  writes.LetAll();
  for (Answer& answer : answers) EXPECT_TRUE(answer.Wait().ok());
  for (const uint64_t id : promised) EXPECT_TRUE(Has(id)) << id;
  Start(options);
  for (uint64_t id = 1000; id < 1100; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  for (const uint64_t id : promised) EXPECT_TRUE(Has(id)) << id;
}

// While the oldest segment's objects are copied, one after another, the others are retained.
TEST_F(DiskTierTest, WhatIsRetainedWhileItsSegmentGoesIsKept) {
  for (uint64_t n_writes = 1; n_writes < 8; ++n_writes) {
    MemoryFileSystem files;
    auto tier = std::move(*OpenTier(SmallDisk(), files, clock_));
    uint64_t n_put = 0;
    while (tier->Stats().log.n_evicted == 0) ASSERT_TRUE(PutAndWait(*tier, Cached(n_put++)).ok());
    uint64_t oldest = 0;
    while (!tier->index().Find(BlockKeyOf(oldest)).has_value()) ++oldest;
    const uint64_t sequence = tier->index().Find(BlockKeyOf(oldest))->place.sequence;
    for (uint64_t i = 0; i < 2; ++i) {
      ASSERT_TRUE(TouchAndWait(*tier, BlockKeyOf(oldest + i), clock_.WallNow() + absl::Hours(1)).ok());
    }
    Gate writes(Operation::kWrite);
    files.SetFault(writes.Fault());
    std::vector<Answer> answers(8);
    for (uint64_t i = 0; i < answers.size(); ++i) Put(*tier, Cached(n_put + i), answers[i].Done());
    for (uint64_t i = 1; i < n_writes; ++i) writes.LetOne();
    writes.Await(n_writes);
    std::vector<uint64_t> promised;
    for (uint64_t id = oldest + 2; id < oldest + 6; ++id) {
      const auto entry = tier->index().Find(BlockKeyOf(id));
      if (!entry.has_value() || entry->place.sequence != sequence) continue;
      if (tier->Touch(BlockKeyOf(id), clock_.WallNow() + absl::Hours(1), nullptr).ok()) promised.push_back(id);
    }
    writes.LetAll();
    for (Answer& answer : answers) ASSERT_TRUE(answer.Wait().ok());
    for (const uint64_t id : promised) EXPECT_TRUE(Get(*tier, BlockKeyOf(id)).ok()) << id << " after " << n_writes;
  }
}

TEST_F(DiskTierTest, TouchesThatWaitCountAgainstTheParkedShare) {
  Start();
  uint64_t n_put = 0;
  while (tier_->Stats().log.n_evicted == 0) ASSERT_TRUE(PutAndWait(*tier_, Cached(n_put++)).ok());
  Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  Answer stalled;
  Put(*tier_, Cached(n_put), stalled.Done());
  writes.Await(1);
  std::vector<uint64_t> promised;
  bool refused = false;
  for (uint64_t id = 0; id < n_put; ++id) {
    const absl::Status status = tier_->Touch(BlockKeyOf(id), clock_.WallNow() + absl::Hours(1), nullptr);
    if (status.ok()) promised.push_back(id);
    refused = refused || absl::IsResourceExhausted(status);
  }
  EXPECT_TRUE(refused);
  EXPECT_LE(tier_->Stats().retained_bytes, tier_->Stats().retained_limit_bytes);
  writes.LetAll();
  for (uint64_t id = 1000; id < 1200; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  for (const uint64_t id : promised) EXPECT_TRUE(Has(id)) << id;
}

// What is left of every segment is less than a record, though the share is not full.
TEST_F(DiskTierTest, ADiskFullOfRetainedObjectsRefusesUntilTheirTimeIsOver) {
  DiskOptions options = SmallDisk();
  options.parked_share = 1;
  Start(options);
  uint64_t id = 0;
  absl::Status status;
  for (; status.ok(); ++id) status = PutAndWait(*tier_, Retained(id));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LT(tier_->Stats().retained_bytes, tier_->Stats().retained_limit_bytes - 2 * kPayload);
  EXPECT_EQ(PutAndWait(*tier_, Cached(1000)).code(), absl::StatusCode::kResourceExhausted);
  for (uint64_t kept = 0; kept + 1 < id; ++kept) EXPECT_TRUE(Has(kept)) << kept;
  clock_.Advance(3601);
  EXPECT_TRUE(PutAndWait(*tier_, Cached(1000)).ok());
}

TEST_F(DiskTierTest, AnObjectIsWrittenOnceHoweverOftenItIsPut) {
  Start();
  for (const int64_t seconds : {10, 20, 5}) ASSERT_TRUE(PutAndWait(*tier_, Retained(1, seconds)).ok());
  EXPECT_EQ(tier_->Stats().n_put, 1u);
  Start();
  EXPECT_EQ(tier_->index().Find(BlockKeyOf(1))->head.retain_until, clock_.WallNow() + absl::Seconds(20));
}

TEST_F(DiskTierTest, NoLaterPutShortensARetention) {
  Start();
  // In one batch, or one after another.
  for (const bool wait : {false, true}) {
    const uint64_t id = wait ? 1 : 2;
    std::vector<Answer> answers(3);
    Put(*tier_, Retained(id, 3600), answers[0].Done());
    if (wait) {
      ASSERT_TRUE(answers[0].Wait().ok());
    }
    Put(*tier_, Retained(id, 10), answers[1].Done());
    if (wait) {
      ASSERT_TRUE(answers[1].Wait().ok());
    }
    Put(*tier_, Cached(id), answers[2].Done());
    for (Answer& answer : answers) ASSERT_TRUE(answer.Wait().ok());
  }
  clock_.Advance(60);
  for (uint64_t id = 100; id < 200; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  Start();
  for (uint64_t id = 200; id < 300; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  EXPECT_TRUE(Has(1));
  EXPECT_TRUE(Has(2));
}

TEST_F(DiskTierTest, WhatWasDroppedStaysGoneAfterARestart) {
  Start();
  for (uint64_t id = 0; id < 6; ++id) ASSERT_TRUE(PutAndWait(*tier_, Retained(id)).ok());
  Object other = Cached(7);
  other.head.namespace_id = "other";
  ASSERT_TRUE(PutAndWait(*tier_, other).ok());
  const ObjectKey keys[] = {BlockKeyOf(1), BlockKeyOf(3)};
  Answer dropped;
  EXPECT_EQ(tier_->Drop(keys, dropped.Done()), 2u);
  EXPECT_FALSE(Has(1)) << "at once";
  ASSERT_TRUE(dropped.Wait().ok());
  ASSERT_TRUE(PutAndWait(*tier_, Cached(3)).ok());
  Answer dropped_all;
  EXPECT_EQ(tier_->DropNamespace("other", dropped_all.Done()), 1u);
  ASSERT_TRUE(dropped_all.Wait().ok());
  Start();
  EXPECT_FALSE(Has(1));
  EXPECT_TRUE(Has(3)) << "put again after the drop";
  EXPECT_FALSE(Has(7));
  EXPECT_TRUE(Has(5));
}

TEST_F(DiskTierTest, ARemovalThatFindsNoRoomIsRefusedAndHidesNothingThen) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  Gate writes(Operation::kWrite);
  files_.SetFault(writes.Fault());
  Answer stalled;
  Put(*tier_, Cached(2), stalled.Done());
  writes.Await(1);
  const ObjectKey keys[] = {BlockKeyOf(1)};
  Answer refused;
  for (int i = 0; i < 10'000 && !refused.IsThere(); ++i) {
    refused = Answer();
    tier_->Drop(keys, refused.Done());
  }
  EXPECT_EQ(refused.Wait().code(), absl::StatusCode::kUnavailable);
  Answer again;
  Put(*tier_, Cached(1), again.Done());
  writes.LetAll();
  ASSERT_TRUE(again.Wait().ok());
  EXPECT_TRUE(Has(1)) << "put behind all removals";
}

TEST_F(DiskTierTest, TheParkedShareIsRefusedNeverDowngraded) {
  Start();
  uint64_t id = 0;
  absl::Status status;
  for (; status.ok(); ++id) status = PutAndWait(*tier_, Retained(id));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Has(id - 1));
  const DiskStats stats = tier_->Stats();
  EXPECT_LE(stats.retained_bytes, stats.retained_limit_bytes);
  for (uint64_t other = 1000; other < 1300; ++other) ASSERT_TRUE(PutAndWait(*tier_, Cached(other)).ok());
  for (uint64_t kept = 0; kept + 1 < id; ++kept) EXPECT_TRUE(Has(kept)) << kept;
}

TEST_F(DiskTierTest, CacheObjectsEnterAtTheSecondSighting) {
  Start();
  EXPECT_FALSE(tier_->Wants(BlockKeyOf(1)));
  EXPECT_TRUE(tier_->Wants(BlockKeyOf(1)));
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  EXPECT_FALSE(tier_->Wants(BlockKeyOf(1))) << "it is there";
}

TEST_F(DiskTierTest, ADirectoryBelongsToOneNodeAndOneShape) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  tier_.reset();
  EXPECT_EQ(DiskTier::Open(SmallDisk(), files_, clock_, NodeId{9}).value()->node(), (NodeId{1, 2, 3}))
      << "the node comes back with the disk";
  EXPECT_EQ(OpenTier(SmallDisk(5), files_, clock_).status().code(), absl::StatusCode::kFailedPrecondition);
  DiskOptions other = SmallDisk();
  other.segment_bytes = 128 << 10;
  EXPECT_EQ(OpenTier(other, files_, clock_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(OpenTier(SmallDisk(8), files_, clock_).ok()) << "it may grow";
}

TEST_F(DiskTierTest, ADirectoryOfAnotherVersionIsRefusedAndNotOverwritten) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  const std::string path = "/disk/segment-00000" + std::to_string(tier_->index().Find(BlockKeyOf(1))->place.slot);
  tier_.reset();
  // A whole superblock, of the version before.
  std::vector<std::byte>& bytes = files_.Bytes(path);
  bytes[sizeof(uint64_t)] = std::byte{kFormatVersion - 1};
  const uint32_t crc = Crc32c(std::span(bytes).first(kSectorBytes - sizeof(uint32_t)));
  std::memcpy(bytes.data() + kSectorBytes - sizeof crc, &crc, sizeof crc);
  const std::vector<std::byte> before = bytes;
  const absl::Status status = OpenTier(SmallDisk(), files_, clock_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("another version"));
  EXPECT_EQ(files_.Bytes(path), before);
}

TEST_F(DiskTierTest, AFullDiskShrinksWhatIsUsed) {
  files_.SetCapacity(4 * (256 << 10));
  Start();
  EXPECT_EQ(tier_->Stats().quota_bytes, 4u * (256 << 10));
  for (uint64_t id = 0; id < 100; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  EXPECT_TRUE(Has(99));
  MemoryFileSystem tiny;
  tiny.SetCapacity(2 * (256 << 10));
  EXPECT_EQ(OpenTier(SmallDisk(), tiny, clock_).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(DiskTierTest, WritesThatFindNoSpaceAreRefusedAndLaterOnesGoOn) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  files_.SetFault([](Operation operation) {
    return operation == Operation::kWrite ? absl::ResourceExhaustedError("no space") : absl::OkStatus();
  });
  EXPECT_EQ(PutAndWait(*tier_, Retained(2)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(PutAndWait(*tier_, Cached(3)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier_->Stats().n_dropped, 1u);
  EXPECT_FALSE(tier_->Stats().fenced);
  files_.SetFault(nullptr);
  EXPECT_TRUE(PutAndWait(*tier_, Retained(4)).ok());
  Start();
  EXPECT_TRUE(Has(1));
  EXPECT_TRUE(Has(4));
  EXPECT_FALSE(Has(2));
}

TEST_F(DiskTierTest, AFailedSyncFencesTheDeviceAndIsNeverRetried) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Retained(1)).ok());
  std::atomic<int> n_syncs = 0;
  files_.SetFault([&](Operation operation) {
    if (operation != Operation::kSync) return absl::OkStatus();
    return ++n_syncs == 1 ? absl::DataLossError("EIO once") : absl::OkStatus();
  });
  EXPECT_EQ(PutAndWait(*tier_, Retained(2)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(tier_->Stats().fenced);
  EXPECT_EQ(PutAndWait(*tier_, Retained(3)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(n_syncs, 1);
  EXPECT_FALSE(Has(2)) << "nobody knows what is on the device";
  EXPECT_TRUE(Has(1)) << "reading goes on";
}

// Who waits is told by the failure itself: those whose sync it was, those behind them, and those who come later.
TEST_F(DiskTierTest, AFailedSyncIsToldToAllWhoWaitForIt) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  Gate syncs(Operation::kSync);
  files_.SetFault(syncs.Fault());
  Answer put, touched, behind, dropped, later;
  Put(*tier_, Retained(2), put.Done());
  syncs.Await(1);
  Put(*tier_, Retained(3), behind.Done());
  ASSERT_TRUE(tier_->Touch(BlockKeyOf(1), clock_.WallNow() + absl::Hours(1), touched.Done()).ok());
  const ObjectKey keys[] = {BlockKeyOf(4)};
  tier_->Drop(keys, dropped.Done());
  EXPECT_FALSE(put.IsThere());
  syncs.LetAll(absl::DataLossError("EIO"));
  for (const Answer& answer : {put, behind, touched, dropped}) EXPECT_TRUE(answer.CameWithin(std::chrono::seconds(1)));
  Put(*tier_, Retained(5), later.Done());
  EXPECT_TRUE(later.CameWithin(std::chrono::seconds(1)));
  for (Answer answer : {put, behind, touched, dropped, later}) {
    EXPECT_EQ(answer.Wait().code(), absl::StatusCode::kUnavailable);
  }
}

TEST_F(DiskTierTest, ASyncThatFailsWhileRetainedObjectsMoveLosesNone) {
  for (int n_good = 0; n_good < 40; ++n_good) {
    MemoryFileSystem files;
    auto tier = std::move(*OpenTier(SmallDisk(), files, clock_));
    for (uint64_t id = 0; id < 5; ++id) ASSERT_TRUE(PutAndWait(*tier, Retained(id)).ok());
    std::atomic<int> n_syncs = 0;
    files.SetFault([&](Operation operation) {
      return operation == Operation::kSync && n_syncs++ == n_good ? absl::DataLossError("EIO once") : absl::OkStatus();
    });
    for (uint64_t id = 100; id < 200 && !tier->Stats().fenced; ++id) (void)PutAndWait(*tier, Cached(id));
    ASSERT_TRUE(tier->Stats().fenced);
    for (uint64_t id = 0; id < 5; ++id) ASSERT_EQ(*Get(*tier, BlockKeyOf(id)), Cached(id).payload) << id << n_good;
  }
}

TEST_F(DiskTierTest, AFailedWriteFencesTheDevice) {
  Start();
  ASSERT_TRUE(PutAndWait(*tier_, Retained(1)).ok());
  files_.SetFault([](Operation operation) {
    return operation == Operation::kWrite ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(PutAndWait(*tier_, Retained(2)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(tier_->Stats().fenced);
  EXPECT_TRUE(Has(1));
}

TEST_F(DiskTierTest, AnUnreadableRecordIsQuarantinedAndTheRestServed) {
  Start();
  for (uint64_t id = 1; id < 4; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  std::atomic<bool> failing = true;
  files_.SetFault([&](Operation operation) {
    return operation == Operation::kRead && failing ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(Get(*tier_, BlockKeyOf(1)).status().code(), absl::StatusCode::kDataLoss);
  failing = false;
  EXPECT_EQ(Get(*tier_, BlockKeyOf(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Has(2));
  EXPECT_EQ(tier_->Stats().n_quarantined, 1u);
  EXPECT_TRUE(PutAndWait(*tier_, Cached(1)).ok());
  EXPECT_TRUE(Has(1));
}

TEST_F(DiskTierTest, ShortTransfersAreContinued) {
  files_.SetShortTransfers(true);
  Start();
  for (uint64_t id = 0; id < 50; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  Start();
  for (uint64_t id = 45; id < 50; ++id) EXPECT_EQ(*Get(*tier_, BlockKeyOf(id)), Cached(id).payload);
}

TEST_F(DiskTierTest, AStalledDeviceFillsTheQueueAndBlocksNobody) {
  DiskOptions options = SmallDisk();
  options.queue_bytes = 4 * (kPayload + 2 * kSectorBytes);
  Start(options);
  std::promise<void> stall;
  const std::shared_future<void> stalled(stall.get_future());
  files_.SetFault([stalled](Operation operation) {
    if (operation == Operation::kWrite) stalled.wait();
    return absl::OkStatus();
  });
  const auto begun = std::chrono::steady_clock::now();
  std::vector<Answer> answers(20);
  for (uint64_t id = 0; id < answers.size(); ++id) Put(*tier_, Cached(id), answers[id].Done());
  EXPECT_EQ(answers.back().Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_GT(tier_->Stats().n_dropped, 0u);
  EXPECT_LE(tier_->Stats().queued_bytes, options.queue_bytes);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(1)) << "nobody waited for the device";
  stall.set_value();
  EXPECT_TRUE(answers.front().Wait().ok());
}

TEST_F(DiskTierTest, TheScrubberFindsWhatNobodyReads) {
  DiskOptions options = SmallDisk();
  options.scrub_bytes_per_s = 1 << 30;
  Start(options);
  for (uint64_t id = 0; id < 5; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  const Place place = tier_->index().Find(BlockKeyOf(3))->place;
  // The writer does not run now, and the scrubber only reads.
  files_.Bytes("/disk/segment-00000" + std::to_string(place.slot))[place.offset + kSectorBytes + 7] ^= std::byte{1};
  while (tier_->Stats().n_quarantined == 0) std::this_thread::yield();
  EXPECT_FALSE(tier_->index().Find(BlockKeyOf(3)).has_value());
  EXPECT_TRUE(Has(2));
}

class DiskRestart : public DiskTierTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Clear, DiskRestart, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, DiskRestart, ::testing::Values(true));

TEST_P(DiskRestart, TakesSecondsWithAHundredGigabytes) {
  const bool encrypted = GetParam();
  const std::string directory =
      ::testing::TempDir() + (encrypted ? "/disk_restart_test_encrypted" : "/disk_restart_test");
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  const auto files = MakePosixFileSystem(DirectIo::kAuto);
  DiskOptions options;
  options.directory = directory;
  options.quota_bytes = 400 * options.segment_bytes;
  options.scrub_bytes_per_s = 0;
  DataKeys keys(*files, directory, MasterKey(1), 10);
  if (encrypted) {
    ASSERT_TRUE(keys.Load().ok());
  }
  // Sparse: as long as real ones, with nothing in them but what is written below.
  AlignedBuffer sector(kSectorBytes);
  for (uint32_t slot = 0; slot < 400; ++slot) {
    char name[32];
    std::snprintf(name, sizeof name, "/segment-%06u", slot);
    auto file = std::move(*files->Open(directory + name, /*create=*/true));
    std::string footer;
    const uint64_t n_records = 280;
    for (uint64_t i = 0; i < n_records; ++i) {
      Record record;
      record.head = MakeObject(slot * n_records + i, kRoot, 256, 1).head;
      record.head.payload_bytes = 899648;
      std::byte payload{};
      if (encrypted) {
        ASSERT_TRUE(keys.Encrypt(record, std::span(&payload, 1)).ok());
      }
      AppendFooterEntry(kSectorBytes + i * record.disk_bytes(), record, &footer);
    }
    Trailer trailer{.node = NodeId{7}, .sequence = slot + 1, .footer_offset = 254 << 20};
    trailer.footer_bytes = footer.size();
    trailer.n_entries = n_records;
    trailer.footer_crc = FooterCrc(std::as_bytes(std::span(footer)));
    AlignedBuffer padded(footer.size());
    std::memcpy(padded.span().data(), footer.data(), footer.size());
    ASSERT_TRUE(file->WriteFully(trailer.footer_offset, {padded.span()}).ok());
    EncodeTrailer(trailer, sector.span().first<kSectorBytes>());
    ASSERT_TRUE(file->WriteFully(options.segment_bytes - kSectorBytes, {sector.span()}).ok());
    EncodeSuperblock({NodeId{7}, slot + 1, options.segment_bytes, encrypted ? keys.check() : KeyCheck{}},
                     sector.span().first<kSectorBytes>());
    ASSERT_TRUE(file->WriteFully(0, {sector.span()}).ok());
  }
  const auto begun = std::chrono::steady_clock::now();
  const auto tier = OpenTier(options, *files, clock_, encrypted ? MasterKey(1) : nullptr);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  ASSERT_TRUE(tier.ok()) << tier.status();
  std::printf("400 segments, %lu objects, ready after %.2f s\n", (*tier)->index().n_objects(), took.count());
  EXPECT_EQ((*tier)->index().n_objects(), 399u * 280) << "the oldest was the spare one";
  EXPECT_EQ((*tier)->index().Find(BlockKeyOf(1000))->head.digest, MakeObject(1000, kRoot, 256, 1).head.digest);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(took.count(), 5) << "it read more than footers";
#endif
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace longshelf::kvstore::disk
