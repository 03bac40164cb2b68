// Disks that were written once, by format version 3, and lie in tests/fixtures/kvstore_disk: what changes the format
// without another version is noticed here. Files end where their zeros begin.
//
// With another version they are written anew:
//   LONGSHELF_WRITE_GOLDEN_DISKS=tests/fixtures/kvstore_disk kvstore_disk_test --gtest_filter='*GoldenDisk*'
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "disk/posix_file_system.h"
#include "disk_fixture.h"
#include "testing/fixtures.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr uint64_t kObjects = 10;
constexpr uint64_t kTouched = 2;
constexpr uint64_t kDropped = 3;

Object ObjectOf(uint64_t id) { return MakeObject(id, /*parent=*/1u << 30, 256, 300 + id); }

DiskOptions GoldenDisk(const std::string& directory) {
  DiskOptions options = SmallDisk();
  options.segment_bytes = 16 * kSectorBytes;
  options.quota_bytes = 3 * options.segment_bytes;
  options.directory = directory;
  return options;
}

class GoldenDiskTest : public ::testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<DiskTier> Open(const std::string& directory) {
    auto tier = OpenTier(GoldenDisk(directory), *files_, clock_, GetParam() ? MasterKey(1) : nullptr);
    EXPECT_TRUE(tier.ok()) << tier.status();
    return tier.ok() ? *std::move(tier) : nullptr;
  }
  // A sealed segment and one that is not, with a record of every kind.
  void Write(const std::string& directory) {
    std::filesystem::remove_all(directory);
    const auto tier = Open(directory);
    ASSERT_NE(tier, nullptr);
    Object other = ObjectOf(100);
    other.head.namespace_id = "other";
    ASSERT_TRUE(PutAndWait(*tier, other).ok());
    Answer all_dropped;
    tier->DropNamespace("other", all_dropped.Done());
    ASSERT_TRUE(all_dropped.Wait().ok());
    for (uint64_t id = 0; id < kObjects; ++id) {
      const Object object = id % 2 == 0 ? Parked(ObjectOf(id), clock_.WallNow() + absl::Hours(1)) : ObjectOf(id);
      ASSERT_TRUE(PutAndWait(*tier, object).ok());
    }
    ASSERT_TRUE(TouchAndWait(*tier, BlockKeyOf(kTouched), clock_.WallNow() + absl::Hours(2)).ok());
    Answer dropped;
    const ObjectKey keys[] = {BlockKeyOf(kDropped)};
    tier->Drop(keys, dropped.Done());
    ASSERT_TRUE(dropped.Wait().ok());
  }
  static void Trim(const std::string& directory) {
    for (const auto& file : std::filesystem::directory_iterator(directory)) {
      if (!file.is_regular_file()) continue;
      std::ifstream in(file.path(), std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(in), {}};
      std::filesystem::resize_file(file.path(), bytes.find_last_not_of('\0') + 1);
    }
  }

  const std::string name_ = GetParam() ? "encrypted" : "clear";
  const std::unique_ptr<FileSystem> files_ = MakePosixFileSystem(DirectIo::kAuto, WriteMethod::kPwrite);
  DatedClock clock_;
};
INSTANTIATE_TEST_SUITE_P(Clear, GoldenDiskTest, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, GoldenDiskTest, ::testing::Values(true));

TEST_P(GoldenDiskTest, HoldsWhatWasPutThere) {
  if (const char* directory = std::getenv("LONGSHELF_WRITE_GOLDEN_DISKS"); directory != nullptr) {
    Write(directory + ("/" + name_));
    Trim(directory + ("/" + name_));
  }
  const std::string copy = ::testing::TempDir() + "/golden_disk_" + name_;
  std::filesystem::remove_all(copy);
  std::filesystem::copy(testing::FixturePath("kvstore_disk/" + name_), copy, std::filesystem::copy_options::recursive);
  for (const auto& file : std::filesystem::directory_iterator(copy)) {
    if (file.is_regular_file()) std::filesystem::resize_file(file.path(), GoldenDisk(copy).segment_bytes);
  }
  const auto tier = Open(copy);
  ASSERT_NE(tier, nullptr);
  EXPECT_EQ(tier->node(), (NodeId{1, 2, 3}));
  EXPECT_EQ(tier->Stats().log.n_damaged, 0u);
  EXPECT_EQ(tier->Stats().n_objects, kObjects - 1);
  EXPECT_NE(tier->index().Find(BlockKeyOf(0))->place.sequence,
            tier->index().Find(BlockKeyOf(kObjects - 1))->place.sequence);
  for (uint64_t id = 0; id < kObjects; ++id) {
    const auto got = Get(*tier, BlockKeyOf(id));
    if (id == kDropped) {
      EXPECT_FALSE(got.ok());
      continue;
    }
    ASSERT_TRUE(got.ok()) << id << ": " << got.status();
    EXPECT_EQ(*got, ObjectOf(id).payload);
    const ObjectHead head = tier->index().Find(BlockKeyOf(id))->head;
    EXPECT_EQ(head.parent, ObjectOf(id).head.parent);
    EXPECT_EQ(head.namespace_id, "ns");
    EXPECT_EQ(head.object_class, id % 2 == 0 ? ObjectClass::kParked : ObjectClass::kCache);
    if (id % 2 == 0) {
      EXPECT_EQ(head.retain_until, clock_.WallNow() + absl::Hours(id == kTouched ? 2 : 1));
    }
  }
  EXPECT_FALSE(Get(*tier, BlockKeyOf(100)).ok());
  std::filesystem::remove_all(copy);
}

}  // namespace
}  // namespace longshelf::kvstore::disk
