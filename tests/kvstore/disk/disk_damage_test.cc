// What bit rot and bad sectors may take at a start: the record they hit, and nothing that was acknowledged beside it.
#include <gtest/gtest.h>

#include <string>

#include "disk/disk_tier.h"
#include "disk_fixture.h"
#include "memory_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr uint64_t kRoot = 1u << 30;
constexpr size_t kPayload = 30000;

class DiskDamage : public ::testing::TestWithParam<bool> {
 protected:
  absl::Status TryStart() {
    tier_.reset();
    auto tier = OpenTier(SmallDisk(), files_, clock_, GetParam() ? MasterKey(1) : nullptr);
    if (tier.ok()) tier_ = *std::move(tier);
    return tier.status();
  }
  void Start() {
    const absl::Status status = TryStart();
    ASSERT_TRUE(status.ok()) << status;
  }

  Object Cached(uint64_t id) { return MakeObject(id, kRoot, 256, kPayload); }
  Object Retained(uint64_t id, int64_t seconds = 3600) {
    return Parked(Cached(id), clock_.WallNow() + absl::Seconds(seconds));
  }
  bool Has(uint64_t id) {
    const auto got = Get(*tier_, BlockKeyOf(id));
    EXPECT_TRUE(!got.ok() || *got == Cached(id).payload) << id;
    return got.ok();
  }
  absl::Time RetainedUntil(uint64_t id) { return tier_->index().Find(BlockKeyOf(id))->head.retain_until; }
  Place PlaceOf(uint64_t id) { return tier_->index().Find(BlockKeyOf(id))->place; }
  static std::string PathOf(const Place& place) { return "/disk/segment-00000" + std::to_string(place.slot); }
  void DropAndWait(uint64_t id) {
    const ObjectKey keys[] = {BlockKeyOf(id)};
    Answer dropped;
    tier_->Drop(keys, dropped.Done());
    ASSERT_TRUE(dropped.Wait().ok());
  }

  // The second of three objects will not be what was put; behind it, every kind of promise is made.
  void PromiseBehindADamagedObject() {
    for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(PutAndWait(*tier_, Retained(id)).ok());
    ASSERT_TRUE(PutAndWait(*tier_, Retained(4)).ok());
    DropAndWait(1);
    ASSERT_TRUE(TouchAndWait(*tier_, BlockKeyOf(3), clock_.WallNow() + absl::Hours(9)).ok());
    ASSERT_TRUE(PutAndWait(*tier_, Retained(5)).ok());
  }
  void CheckWhatWasPromised() {
    EXPECT_FALSE(Has(1)) << "was removed and came back";
    EXPECT_FALSE(Has(2)) << "is damaged";
    for (const uint64_t id : {3, 4, 5}) EXPECT_TRUE(Has(id)) << id;
    ASSERT_TRUE(Has(3));
    EXPECT_EQ(RetainedUntil(3), clock_.WallNow() + absl::Hours(9));
  }
  void Damage(const Place& place) { files_.Bytes(PathOf(place))[place.offset + kSectorBytes + 5000] ^= std::byte{1}; }

  MemoryFileSystem files_;
  DatedClock clock_;
  std::unique_ptr<DiskTier> tier_;
};
INSTANTIATE_TEST_SUITE_P(Clear, DiskDamage, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, DiskDamage, ::testing::Values(true));

TEST_P(DiskDamage, OfOneObjectInTheActiveSegmentTakesNoOther) {
  Start();
  PromiseBehindADamagedObject();
  const Place place = PlaceOf(2);
  tier_.reset();
  Damage(place);
  for (int restart = 0; restart < 2; ++restart) {
    Start();
    CheckWhatWasPromised();
    EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
  }
  // The segment goes on behind them, and its footer names no damaged record.
  for (uint64_t id = 100; id < 110; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  EXPECT_EQ(PlaceOf(100).slot, place.slot);
  ASSERT_NE(PlaceOf(109).slot, place.slot);
  Start();
  CheckWhatWasPromised();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
  for (uint64_t id = 100; id < 110; ++id) EXPECT_TRUE(Has(id)) << id;
}

TEST_P(DiskDamage, OfWhatAnObjectsSectorHeldTakesNoOther) {
  Start();
  PromiseBehindADamagedObject();
  const Place place = PlaceOf(2);
  tier_.reset();
  files_.MakeUnreadable(PathOf(place), place.offset + 2 * kSectorBytes, kSectorBytes);
  Start();
  CheckWhatWasPromised();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
}

// What nobody has acknowledged may end there, torn by a loss of power: it is no damage, and is written over.
TEST_P(DiskDamage, OfTheLastRecordIsItsEnd) {
  Start();
  for (const uint64_t id : {1, 2}) ASSERT_TRUE(PutAndWait(*tier_, Retained(id)).ok());
  const Place place = PlaceOf(2);
  tier_.reset();
  Damage(place);
  Start();
  EXPECT_TRUE(Has(1));
  EXPECT_FALSE(Has(2));
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
  ASSERT_TRUE(PutAndWait(*tier_, Retained(3)).ok());
  EXPECT_EQ(PlaceOf(3), place);
}

// What lay behind in the file's last life does not follow the records of this one.
TEST_P(DiskDamage, BringsNothingBackThatASegmentBeforeHeld) {
  Start();
  uint64_t id = 0;
  while (tier_->Stats().log.n_evicted == 0) ASSERT_TRUE(PutAndWait(*tier_, Cached(id++)).ok());
  const Place last = PlaceOf(id - 1);
  const uint64_t n_objects = tier_->Stats().n_objects;
  tier_.reset();
  Damage(last);
  Start();
  EXPECT_FALSE(Has(id - 1));
  EXPECT_LT(tier_->Stats().n_objects, n_objects);
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
}

TEST_P(DiskDamage, OfAFooterAndAnObjectTakesNoOther) {
  Start();
  PromiseBehindADamagedObject();
  const Place place = PlaceOf(2);
  for (uint64_t id = 100; id < 112; ++id) ASSERT_TRUE(PutAndWait(*tier_, Cached(id)).ok());
  ASSERT_NE(PlaceOf(111).sequence, place.sequence);
  tier_.reset();
  Damage(place);
  const uint64_t trailer = SmallDisk().segment_bytes - kSectorBytes;
  files_.Bytes(PathOf(place))[trailer + 100] ^= std::byte{1};
  Start();
  CheckWhatWasPromised();
  for (uint64_t id = 100; id < 112; ++id) EXPECT_TRUE(Has(id)) << id;
  EXPECT_EQ(tier_->Stats().log.n_damaged, 2u);
}

// One bad sector of structure: whatever it was, no segment is taken for the spare one.
TEST_P(DiskDamage, OfOneSectorOfStructureTakesNoSegment) {
  const uint64_t trailer = SmallDisk().segment_bytes - kSectorBytes;
  Start();
  for (uint64_t id = 0; id < 10; ++id) ASSERT_TRUE(PutAndWait(*tier_, Retained(id)).ok());
  const std::string sealed = PathOf(PlaceOf(0));
  const std::string active = PathOf(PlaceOf(9));
  ASSERT_NE(sealed, active);
  const auto expect_all = [&] {
    for (uint64_t id = 0; id < 10; ++id) EXPECT_TRUE(Has(id)) << id;
  };
  for (const auto& [path, offset] :
       std::vector<std::pair<std::string, uint64_t>>{{sealed, 0}, {sealed, trailer}, {active, trailer}}) {
    tier_.reset();
    files_.MakeUnreadable(path, offset, kSectorBytes);
    Start();
    expect_all();
    tier_.reset();
    files_.MakeAllReadable();
  }
  // Which segment is written is told by its first sector only, and which records it has by their headers.
  const uint64_t last_header = [&] {
    Start();
    return PlaceOf(9).offset;
  }();
  const std::vector<std::byte> before = files_.Bytes(active);
  for (const uint64_t offset : {uint64_t{0}, last_header}) {
    tier_.reset();
    files_.MakeUnreadable(active, offset, kSectorBytes);
    EXPECT_EQ(TryStart().code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(TryStart().message().find(active), absl::string_view::npos);
    EXPECT_EQ(files_.Bytes(active), before);
    files_.MakeAllReadable();
    Start();
    expect_all();
  }
  // The operator may decide that it is lost.
  tier_.reset();
  files_.MakeUnreadable(active, 0, kSectorBytes);
  ASSERT_TRUE(files_.Remove(active).ok());
  Start();
  EXPECT_TRUE(Has(0));
  EXPECT_FALSE(Has(9));
  EXPECT_TRUE(PutAndWait(*tier_, Retained(9)).ok());
}

}  // namespace
}  // namespace longshelf::kvstore::disk
