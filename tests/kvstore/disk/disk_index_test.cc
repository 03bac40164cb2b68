#include "disk/disk_index.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "objects.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr uint64_t kRoot = 1u << 30;

ObjectHead CheckpointHead(uint64_t id, uint64_t parent, uint32_t depth, const std::string& namespace_id = "ns") {
  ObjectHead head;
  head.key = {Hash(id), ObjectKind::kCheckpoint};
  head.parent = Hash(parent);
  head.depth_tokens = depth;
  head.payload_bytes = 1;
  head.namespace_id = namespace_id;
  return head;
}

TEST(DiskIndex, ListsTheDeepestCheckpointsOfAParent) {
  DiskIndex index;
  std::vector<uint32_t> depths;
  for (uint32_t depth = 1; depth <= 1000; ++depth) depths.push_back(depth);
  std::shuffle(depths.begin(), depths.end(), std::mt19937(1));
  for (const uint32_t depth : depths) {
    index.Insert(CheckpointHead(depth, kRoot, depth), {1, 0, depth});
    index.Insert(CheckpointHead(10'000 + depth, kRoot + depth % 2 * 2 - 1, 2000), {1, 0, depth});
  }
  // Two of one depth are two.
  index.Insert(CheckpointHead(5000, kRoot, 999), {1, 0, 0});
  std::vector<uint32_t> listed;
  for (const ObjectHead& head : index.CheckpointsUnder(Hash(kRoot), 5)) listed.push_back(head.depth_tokens);
  EXPECT_EQ(listed, (std::vector<uint32_t>{1000, 999, 999, 998, 997}));
  ASSERT_TRUE(index.Remove({Hash(999), ObjectKind::kCheckpoint}));
  // Put again elsewhere it is there once.
  index.Insert(CheckpointHead(5000, kRoot, 999), {2, 0, 0});
  listed.clear();
  for (const ObjectHead& head : index.CheckpointsUnder(Hash(kRoot), 3)) listed.push_back(head.depth_tokens);
  EXPECT_EQ(listed, (std::vector<uint32_t>{1000, 999, 998}));
  EXPECT_TRUE(index.CheckpointsUnder(Hash(kRoot + 5), 5).empty());
}

// If each were searched for among its siblings, this would end after minutes.
TEST(DiskIndex, RemovesANamespaceWhoseCheckpointsHangOffOneRoot) {
  DiskIndex index;
  constexpr uint64_t kCheckpoints = 200'000;
  for (uint64_t id = 0; id < kCheckpoints; ++id) {
    index.Insert(CheckpointHead(id, kRoot, 256, id % 100 == 0 ? "other" : "ns"), {1, 0, id});
  }
  EXPECT_EQ(index.Namespaces(), (std::set<std::string>{"ns", "other"}));
  EXPECT_EQ(index.BeginDropNamespaces({"ns"}), kCheckpoints - kCheckpoints / 100);
  EXPECT_EQ(index.n_objects(), kCheckpoints / 100);
  EXPECT_EQ(index.CheckpointsUnder(Hash(kRoot), kCheckpoints).size(), kCheckpoints / 100);
  EXPECT_EQ(index.Namespaces(), std::set<std::string>{"other"});
  EXPECT_EQ(*index.ForgetSegment(1, absl::InfinitePast()), kCheckpoints / 100);
  EXPECT_EQ(index.live_bytes(), 0u);
  EXPECT_TRUE(index.Namespaces().empty());
}

TEST(DiskIndex, KeepsNewObjectsOutWhileTheirNamespaceGoes) {
  DiskIndex index;
  for (uint64_t id = 0; id < 50'000; ++id) index.Insert(CheckpointHead(id, kRoot, 256), {1, 0, id});
  std::atomic<bool> removed = false;
  std::thread writer([&] {
    // Some come before the removal begins, and go with the others.
    for (uint64_t id = 100'000; !removed; ++id) index.Insert(CheckpointHead(id, kRoot, 256), {2, 0, id});
  });
  EXPECT_GE(index.BeginDropNamespaces({"ns"}), 50'000u);
  EXPECT_EQ(index.n_objects(), 0u);
  removed = true;
  writer.join();
  EXPECT_EQ(index.n_objects(), 0u);
  index.EndDropNamespace("ns");
  index.Insert(CheckpointHead(1, kRoot, 256), {3, 0, 0});
  EXPECT_EQ(index.n_objects(), 1u);
}

// A reader found damage, and a whole copy came before the reader could say so.
TEST(DiskIndex, ADamagedPlaceIsDroppedOnlyWhileTheObjectIsThere) {
  DiskIndex index;
  const ObjectHead head = MakeObject(1, kRoot, 256, 100).head;
  const Place damaged{1, 0, 4096};
  const Place whole{2, 1, 4096};
  index.Insert(head, damaged);
  index.Insert(head, whole);
  EXPECT_FALSE(index.BeginDropAt(head.key, damaged));
  ASSERT_TRUE(index.Find(head.key).has_value());
  EXPECT_EQ(index.Find(head.key)->place, whole);
  index.Insert(head, damaged);
  EXPECT_EQ(index.Find(head.key)->place, damaged) << "nothing is kept out";
  EXPECT_TRUE(index.BeginDropAt(head.key, damaged));
  index.Insert(head, whole);
  EXPECT_FALSE(index.Find(head.key).has_value()) << "what comes before the record of the drop goes with it";
  index.EndDrop(head.key);
  index.Insert(head, whole);
  EXPECT_TRUE(index.Find(head.key).has_value());
}

}  // namespace
}  // namespace longshelf::kvstore::disk
