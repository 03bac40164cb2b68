// Parks over several stores: what an acknowledgement is worth when one of them is lost.

#include "bridge_harness.h"
#include "simulated_cluster.h"

namespace longshelf::worker {
namespace {

using kvstore::Ack;
using kvstore::ObjectKind;

constexpr size_t kStores = 3;
constexpr int64_t kTokens = 1000;

class ParkClusterTest : public BridgeHarness {
 protected:
  ParkClusterTest() { options_.n_replicas = 2; }
  kvstore::Client& client() override { return *cluster_.client; }
  bool RunStores() override {
    cluster_.client->RunReady();
    bool has_run = false;
    for (auto& [name, store] : cluster_.stores) has_run = store->Run() || has_run;
    cluster_.client->RunReady();
    return has_run;
  }
  void Advance(absl::Duration time) override {
    clock_.Advance(time);
    cluster_.clock.Advance(time);
  }

  kvstore::SimulatedStore& node(size_t i) { return cluster_.node(i); }
  // How many stores retain an object.
  size_t NumParked(const kvstore::ObjectKey& key) {
    size_t n_parked = 0;
    for (size_t i = 0; i < kStores; ++i) {
      const auto stored = node(i).Read(key, options_.fingerprint);
      n_parked += stored != nullptr && stored->head.object_class == kvstore::ObjectClass::kParked ? 1 : 0;
    }
    return n_parked;
  }
  // What an engine without it gets, from the stores that are up.
  int64_t Restorable(size_t n_tokens) {
    const auto request = Restore(Tokens(n_tokens + 1));
    return request->end.has_value() ? request->end->n_tokens : 0;
  }
  void OffloadAndPark(Ack ack) {
    park_ack_ = ack;
    Start();
    const auto tokens = Tokens(kTokens);
    Offload(tokens, {kTokens});
    Settle();
    engine_.found = FoundAt(tokens, kTokens);
    const auto outcome = Park(tokens);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    for (const int64_t n : {256, 512, 768}) {
      EXPECT_EQ(NumParked(KeyOf(tokens, n, ObjectKind::kBlock)), 2U) << n;
    }
  }

  kvstore::SimulatedCluster cluster_{kStores};
};

// Each store is lost once.
class StoreLostTest : public ParkClusterTest, public ::testing::WithParamInterface<std::tuple<Ack, size_t>> {};

TEST_P(StoreLostTest, WhatWasOffloadedAndThenParkedSurvivesIt) {
  const auto [ack, lost] = GetParam();
  for (size_t i = 0; i < kStores; ++i) node(i).has_disk = kvstore::IsDurable(ack);
  OffloadAndPark(ack);
  node(lost).Restart();
  EXPECT_EQ(Restorable(kTokens), kTokens);
}

TEST_P(StoreLostTest, AndParkingItAnewInVainLosesNoneOfIt) {
  const auto [ack, lost] = GetParam();
  for (size_t i = 0; i < kStores; ++i) node(i).has_disk = kvstore::IsDurable(ack);
  OffloadAndPark(ack);
  node(lost).Restart();
  // What the store has lost is offered to it again, and the state refused.
  for (size_t i = 0; i < kStores; ++i) {
    node(i).refuse = [](const kvstore::PutItem& item) {
      return item.head.key.kind == ObjectKind::kCheckpoint ? absl::ResourceExhaustedError("no") : absl::OkStatus();
    };
  }
  EXPECT_EQ(Park(Tokens(kTokens)).status().code(), absl::StatusCode::kResourceExhausted);
  Pass(absl::Seconds(1));
  EXPECT_EQ(Restorable(kTokens), kTokens);
}

INSTANTIATE_TEST_SUITE_P(Park, StoreLostTest,
                         ::testing::Combine(::testing::Values(Ack::kMemoryAll, Ack::kDurableOne, Ack::kDurableAll),
                                            ::testing::Range<size_t>(0, kStores)));

}  // namespace
}  // namespace longshelf::worker
