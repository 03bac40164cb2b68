// What a healthy cluster does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "kvstore/namespace_id.h"
#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kLater = absl::FromUnixSeconds(4'000'000'000);

TEST(ClusterClient, AChainOfManyExtentsIsSpreadFoundAndReadBackInOrder) {
  SimulatedCluster cluster(8);
  const ChainObjects chain = MakeChain(1, 1100);
  std::vector<PutItem> puts;
  for (const Object& block : chain.blocks) puts.push_back(ItemOf(block));
  const Object checkpoint = chain.CheckpointAt(1100, 7);
  puts.push_back(ItemOf(checkpoint));
  const auto put = cluster.PutAll(puts);
  ASSERT_TRUE(put.status.ok()) << put.status;
  for (const auto& [index, outcome] : put.outcomes) ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(put.outcomes.size(), puts.size());
  std::set<size_t> holders;
  for (const Object& block : chain.blocks) {
    const size_t first = cluster.PlacesOf(block.head.extent, 1)[0];
    EXPECT_NE(cluster.node(first).Read(block.head.key, FingerprintOf(1)), nullptr);
    holders.insert(first);
  }
  EXPECT_GT(holders.size(), 1u);

  LookupQuery query{.fingerprint = FingerprintOf(1), .root = chain.root, .chain = chain.keys};
  const auto found = cluster.Lookup(query);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->n_present, 1100u);
  ASSERT_EQ(found->checkpoints.size(), 1u);
  EXPECT_EQ(found->checkpoints[0].hash, checkpoint.head.key.hash);

  std::vector<GetItem> wants = {WantOf(checkpoint)};
  for (const Object& block : chain.blocks) wants.push_back(WantOf(block));
  const auto got = cluster.Get(wants);
  ASSERT_TRUE(got.status.ok()) << got.status;
  EXPECT_EQ(got.objects[0]->payload, checkpoint.payload);
  for (size_t i = 0; i < chain.blocks.size(); ++i) {
    ASSERT_TRUE(got.objects[i + 1].ok()) << i << got.objects[i + 1].status();
    EXPECT_EQ(got.objects[i + 1]->payload, chain.blocks[i].payload);
  }
}

TEST(ClusterClient, AHoleEndsThePrefixInWhateverExtentItIs) {
  SimulatedCluster cluster(5);
  const ChainObjects chain = MakeChain(2, 900);
  std::vector<PutItem> puts;
  for (const Object& block : chain.blocks) puts.push_back(ItemOf(block));
  for (const size_t n_blocks : {100, 256, 400, 512, 900}) {
    puts.push_back(ItemOf(chain.CheckpointAt(n_blocks, 0)));
    puts.push_back(ItemOf(chain.CheckpointAt(n_blocks, 3)));
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  const LookupQuery query{.fingerprint = FingerprintOf(1), .root = chain.root, .chain = chain.keys};
  const auto depths = [&] {
    std::vector<uint32_t> out;
    const auto found = cluster.Lookup(query);
    for (const CheckpointInfo& info : found->checkpoints) out.push_back(info.depth_tokens);
    return out;
  };
  EXPECT_EQ(depths(), (std::vector<uint32_t>{900 * 256 + 3, 900 * 256, 512 * 256 + 3, 512 * 256, 400 * 256 + 3,
                                             400 * 256, 256 * 256 + 3, 256 * 256, 100 * 256 + 3, 100 * 256}));
  cluster.Drop({{chain.blocks[450].head.key, chain.blocks[450].head.extent}}).value();
  EXPECT_EQ(cluster.Lookup(query)->n_present, 450u);
  EXPECT_EQ(depths(),
            (std::vector<uint32_t>{400 * 256 + 3, 400 * 256, 256 * 256 + 3, 256 * 256, 100 * 256 + 3, 100 * 256}));
  cluster.Drop({{chain.blocks[255].head.key, chain.blocks[255].head.extent}}).value();
  EXPECT_EQ(cluster.Lookup(query)->n_present, 255u);
}

TEST(ClusterClient, ProbesAreFoundInTheExtentBehindTheChain) {
  SimulatedCluster cluster(5);
  for (const size_t n_blocks : {0, 10, 256, 300}) {
    const ChainObjects chain = MakeChain(10 + n_blocks, n_blocks);
    std::vector<PutItem> puts;
    for (const Object& block : chain.blocks) puts.push_back(ItemOf(block));
    // Many continuations of other people hide what is only listed.
    for (uint32_t n = 1; n <= 200; ++n) puts.push_back(ItemOf(chain.CheckpointAt(n_blocks, n)));
    ASSERT_TRUE(cluster.PutAll(puts).status.ok());
    LookupQuery query{.fingerprint = FingerprintOf(1), .root = chain.root, .chain = chain.keys};
    for (const uint32_t n : {1, 5, 250}) query.probes.push_back(chain.CheckpointAt(n_blocks, n).head.key.hash);
    const auto found = cluster.Lookup(query);
    std::set<uint32_t> depths;
    for (const CheckpointInfo& info : found->checkpoints) depths.insert(info.depth_tokens - 256 * n_blocks);
    EXPECT_TRUE(depths.contains(1) && depths.contains(5) && !depths.contains(250)) << n_blocks;
    EXPECT_LE(depths.size(), kMaxListedCheckpoints + 3);
  }
}

TEST(ClusterClient, WhatIsOutIsBoundedByTheWindowOfTheCaller) {
  SimulatedCluster cluster(3);
  const ChainObjects chain = MakeChain(3, 600, 1000);
  std::vector<PutItem> puts;
  std::vector<GetItem> wants;
  for (const Object& block : chain.blocks) {
    puts.push_back(ItemOf(block));
    wants.push_back(WantOf(block));
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  uint64_t n_out = 0;
  uint64_t n_out_max = 0;
  size_t n_got = 0;
  bool is_done = false;
  const auto call = cluster.client->Get(
      {.fingerprint = FingerprintOf(1), .items = wants, .timeout = absl::Seconds(30), .window_bytes = 5500},
      {.on_object =
           [&](size_t, const absl::StatusOr<FetchedObject>& object) {
             ASSERT_TRUE(object.ok()) << object.status();
             ++n_got;
             n_out += object->payload.size();
             n_out_max = std::max(n_out_max, n_out);
           },
       .on_done = [&](const absl::Status& status) { is_done = status.ok(); }});
  for (int i = 0; i < 5000 && !is_done; ++i) {
    cluster.Pass(absl::Milliseconds(1));
    const uint64_t n_taken = std::min<uint64_t>(n_out, 1700);
    n_out -= n_taken;
    call->Release(n_taken);
  }
  EXPECT_TRUE(is_done);
  EXPECT_EQ(n_got, 600u);
  EXPECT_LE(n_out_max, 5500u);
}

TEST(ClusterClient, AReceiverThatReleasesNothingGetsWhatFitsItsWindow) {
  SimulatedCluster cluster(5);
  std::vector<PutItem> puts;
  std::vector<GetItem> wants;
  for (uint64_t id = 1; id <= 30; ++id) {
    Object object = MakeObject(id, 0, 256, 1000);
    object.head.extent = Hash(id);
    puts.push_back(ItemOf(object));
    wants.push_back(WantOf(object));
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  size_t n_got = 0;
  const auto call = cluster.client->Get(
      {.fingerprint = FingerprintOf(1), .items = wants, .timeout = absl::Seconds(5), .window_bytes = 20'500},
      {.on_object = [&](size_t, const auto& object) { n_got += object.ok(); }, .on_done = [](const absl::Status&) {}});
  cluster.Pass(absl::Milliseconds(100));
  EXPECT_EQ(n_got, 20u);
  call->Release(9000);
  cluster.Pass(absl::Milliseconds(100));
  EXPECT_EQ(n_got, 29u);
  call->Release(1000);
  cluster.Pass(absl::Milliseconds(100));
  EXPECT_EQ(n_got, 30u);
}

TEST(ClusterClient, WhoeverGoesOnForANodeThatFellHasTheWholeWindowOnceItIsReleased) {
  SimulatedCluster cluster(3);
  const ChainObjects chain = MakeChain(3, 40, 1000);
  std::vector<PutItem> puts;
  std::vector<GetItem> wants;
  for (const Object& block : chain.blocks) {
    puts.push_back(ItemOf(block, 2, Ack::kMemoryAll));
    wants.push_back(WantOf(block));
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  size_t n_got = 0;
  const auto call = cluster.client->Get(
      {.fingerprint = FingerprintOf(1), .items = wants, .timeout = absl::Seconds(30), .window_bytes = 10'500},
      {.on_object = [&](size_t, const auto& object) { n_got += object.ok(); }, .on_done = [](const absl::Status&) {}});
  cluster.Pass(absl::Milliseconds(100));
  ASSERT_EQ(n_got, 10u);
  for (size_t i = 0; i < 3; ++i) {
    SimulatedStore& node = cluster.node(i);
    if (node.n_bytes_out_max > 0) node.down = absl::UnavailableError("gone");
  }
  call->Release(1000);
  cluster.Pass(absl::Milliseconds(100));
  EXPECT_EQ(n_got, 11u) << "another goes on";
  call->Release(10'000);
  cluster.Pass(absl::Milliseconds(100));
  EXPECT_EQ(n_got, 21u);
  int n_calls = 0;
  for (size_t i = 0; i < 3; ++i) n_calls += cluster.node(i).n_gets;
  EXPECT_EQ(n_calls, 2) << "nobody was taken for slow meanwhile";
}

TEST(ClusterClient, PutsReachAsManyNodesAsAreWantedAndSayHowTheyEnded) {
  SimulatedCluster cluster(4);
  const ChainObjects chain = MakeChain(4, 3);
  const auto held = [&](const Object& object) {
    size_t n = 0;
    for (size_t i = 0; i < 4; ++i) n += cluster.node(i).Read(object.head.key, FingerprintOf(1)) != nullptr;
    return n;
  };
  auto put = cluster.PutAll({ItemOf(chain.blocks[0], 1), ItemOf(chain.blocks[1], 2, Ack::kMemoryAll),
                             ItemOf(chain.blocks[2], 7, Ack::kMemoryAll)});
  EXPECT_FALSE(put.outcomes.at(1)->existed);
  EXPECT_EQ(held(chain.blocks[0]), 1u);
  EXPECT_EQ(held(chain.blocks[1]), 2u);
  EXPECT_EQ(held(chain.blocks[2]), 4u) << "as many as there are";
  put = cluster.PutAll({ItemOf(chain.blocks[1], 2), ItemOf(chain.blocks[0], 2, Ack::kMemoryAll)});
  EXPECT_TRUE(put.outcomes.at(0)->existed);
  EXPECT_FALSE(put.outcomes.at(1)->existed) << "one of the two had to take it";
  Object other = chain.blocks[0];
  other.payload[3] ^= std::byte{1};
  EXPECT_TRUE(cluster.PutAll({ItemOf(other, 2)}).outcomes.at(0)->conflicts);
}

// What an acknowledgement means, on stores of which some have disks.
TEST(ClusterClient, AcknowledgementsMeanWhatTheySay) {
  for (const size_t n_disks : {0, 1, 2}) {
    SimulatedCluster cluster(2);
    for (size_t i = 0; i < n_disks; ++i) cluster.node(i).has_disk = true;
    uint64_t id = 0;
    for (const auto& [ack, n_needed] : std::vector<std::pair<Ack, size_t>>{
             {Ack::kMemoryOne, 0}, {Ack::kMemoryAll, 0}, {Ack::kDurableOne, 1}, {Ack::kDurableAll, 2}}) {
      const Object object = Parked(MakeObject(++id, 0, 256, 100), kLater);
      const auto put = cluster.PutAll({ItemOf(object, 2, ack)});
      EXPECT_EQ(put.outcomes.at(0).ok(), n_disks >= n_needed) << n_disks << " " << put.outcomes.at(0).status();
      TouchQuery touch{
          .keys = {{object.head.key, object.head.extent}}, .retain_until = kLater, .ack = ack, .n_replicas = 2};
      EXPECT_EQ(cluster.Touch(touch)->retained[0], n_disks >= n_needed) << n_disks;
    }
  }
}

TEST(ClusterClient, TouchTellsWhichKeysAreOnTooFewNodes) {
  SimulatedCluster cluster(6);
  const ChainObjects chain = MakeChain(5, 600);
  std::vector<PutItem> puts;
  TouchQuery touch{.keys = {}, .retain_until = kLater, .n_replicas = 2};
  touch.ack = Ack::kMemoryAll;
  for (size_t i = 0; i < 600; ++i) {
    if (i % 3 != 0) puts.push_back(ItemOf(chain.blocks[i], static_cast<uint32_t>(i % 3)));
    touch.keys.push_back({chain.blocks[i].head.key, chain.blocks[i].head.extent});
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  auto touched = cluster.Touch(touch);
  ASSERT_TRUE(touched.ok()) << touched.status();
  EXPECT_EQ(touched->n_present, 400u);
  for (size_t i = 0; i < 600; ++i) EXPECT_EQ(touched->retained[i], i % 3 == 2) << i;
  touch.ack = Ack::kMemoryOne;
  touched = cluster.Touch(touch);
  for (size_t i = 0; i < 600; ++i) EXPECT_EQ(touched->retained[i], i % 3 != 0) << i;
}

TEST(ClusterClient, DropReachesEveryCopyAndSaysWhoWasNotReached) {
  SimulatedCluster cluster(5);
  const Object object = Parked(MakeObject(1, 0, 256, 100), kLater);
  cluster.PutAll({ItemOf(object, 3, Ack::kMemoryAll)});
  auto dropped = cluster.Drop({{object.head.key, object.head.extent}});
  EXPECT_EQ(dropped->n_dropped, 3u);
  EXPECT_EQ(dropped->n_nodes_missed, 0u);
  cluster.node(2).down = absl::UnavailableError("down");
  dropped = cluster.Drop({{object.head.key, object.head.extent}});
  ASSERT_TRUE(dropped.ok()) << dropped.status();
  EXPECT_EQ(dropped->n_nodes_missed, 1u);
}

TEST(ClusterClient, ADeletionReachesAllNodesAndAnswersForTheirRefusal) {
  SimulatedCluster cluster(5);
  absl::StatusOr<DropResult> dropped;
  const auto retire = [&] {
    cluster.client->DropNamespace({.id = "ns", .before_generation = 7, .retire = true}, absl::Seconds(1),
                                  [&](absl::StatusOr<DropResult> result) { dropped = std::move(result); });
    cluster.Settle();
  };
  const Object object = Parked(MakeObject(1, 0, 256, 100), kLater);
  cluster.PutAll({ItemOf(object, 5, Ack::kMemoryAll)});
  retire();
  EXPECT_EQ(dropped->n_dropped, 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(IsNamespaceDeleted(cluster.node(i).store().Open(object.head, absl::UnixEpoch()).status())) << i;
  }
  // One that was restarted has not heard of it: the others' word counts, whatever is to be acknowledged.
  const size_t second = cluster.PlacesOf(object.head.extent, 2)[1];
  cluster.node(second).Restart();
  for (const Ack ack : {Ack::kMemoryOne, Ack::kMemoryAll, Ack::kDurableOne}) {
    const auto put = cluster.PutAll({ItemOf(object, 1, ack)});
    EXPECT_TRUE(IsNamespaceDeleted(put.outcomes.at(0).status())) << put.outcomes.at(0).status();
  }
  EXPECT_EQ(cluster.node(second).n_objects(), 0u);
}

TEST(ClusterClient, ListsWhatAnyNodeHasInPages) {
  SimulatedCluster cluster(5);
  std::vector<PutItem> puts;
  for (uint64_t id = 1; id <= 300; ++id) {
    Object manifest = Parked(MakeObject(id, 1 << 20, 300, 100, ObjectKind::kManifest), kLater);
    manifest.head.extent = manifest.head.key.hash;
    puts.push_back(ItemOf(manifest, 3, Ack::kMemoryAll));
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  cluster.node(1).down = absl::UnavailableError("down");
  cluster.node(4).down = absl::UnavailableError("down");
  ListQuery query{.parent = Hash(1 << 20), .limit = 70};
  std::vector<BlockKey> hashes;
  absl::StatusOr<ListResult> page;
  do {
    page = cluster.List(query);
    ASSERT_TRUE(page.ok()) << page.status();
    ASSERT_FALSE(page->heads.empty());
    for (const ObjectHead& head : page->heads) hashes.push_back(head.key.hash);
    query.after = hashes.back();
  } while (page->more);
  EXPECT_EQ(hashes.size(), 300u);
  EXPECT_TRUE(std::is_sorted(hashes.begin(), hashes.end()));
  EXPECT_EQ(std::set<BlockKey>(hashes.begin(), hashes.end()).size(), 300u);
}

TEST(ClusterClient, ANodeThatJoinsTakesItsShareAndWhatLaysElsewhereIsStillFound) {
  SimulatedCluster cluster(3);
  std::vector<Object> objects;
  std::vector<PutItem> puts;
  std::vector<GetItem> wants;
  for (uint64_t id = 1; id <= 200; ++id) {
    objects.push_back(MakeObject(id, 0, 256, 100));
    objects.back().head.extent = Hash(id);
    puts.push_back(ItemOf(objects.back()));
    wants.push_back(WantOf(objects.back()));
  }
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  cluster.Join(3);
  cluster.Join(4);
  cluster.client->SetMembers(cluster.members);
  const auto got = cluster.Get(wants);
  for (size_t i = 0; i < objects.size(); ++i) EXPECT_EQ(got.objects[i].value().payload, objects[i].payload);
  ASSERT_TRUE(cluster.PutAll(puts).status.ok());
  EXPECT_GT(cluster.node(3).n_objects(), 20u);
}

TEST(ClusterClient, CallsBeyondTheLimitsAreRefused) {
  SimulatedCluster cluster(2);
  const auto got = cluster.Get(std::vector<GetItem>(kMaxKeysPerCall + 1));
  EXPECT_EQ(got.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.Drop(std::vector<PlacedKey>(kMaxKeysPerCall + 1)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(cluster.Get({}).status.ok());
}

}  // namespace
}  // namespace longshelf::kvstore
