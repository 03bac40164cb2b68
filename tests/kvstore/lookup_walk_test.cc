#include "lookup_walk.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kvstore/store.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1u << 30;
constexpr uint64_t kBlocks = 1000;

class LookupWalkTest : public ::testing::Test {
 protected:
  LookupWalkTest() {
    for (uint64_t id = 0; id < kBlocks; ++id) {
      Insert(MakeObject(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1)), 1));
      if (id % 100 == 99) Insert(MakeObject(id, id, static_cast<uint32_t>(256 * (id + 1)), 1, ObjectKind::kCheckpoint));
      query_.chain.push_back(Hash(id));
    }
    Insert(MakeObject(5000, kRoot, 7, 1, ObjectKind::kCheckpoint));
  }

  void Insert(const Object& object) {
    auto entry = std::make_unique<Entry>();
    entry->head = object.head;
    entry->charge_bytes = 1;
    index_.Insert(std::move(entry), absl::UnixEpoch());
  }

  void Remove(uint64_t id) { index_.Remove(*index_.Find(BlockKeyOf(id))); }

  ObjectIndex index_{EvictionOptions{}};
  LookupQuery query_{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
};

TEST_F(LookupWalkTest, NoStepVisitsMoreThanAFewDozenKeys) {
  LookupWalk walk(query_, index_, nullptr);
  int n_steps = 1;
  while (walk.Step()) ++n_steps;
  EXPECT_GE(n_steps, 2 * static_cast<int>(kBlocks) / 64);
  const LookupResult result = walk.TakeResult();
  EXPECT_EQ(result.n_present, kBlocks);
  EXPECT_EQ(result.checkpoints.size(), 11u);
}

// Whatever block goes after whatever step: nothing beyond it is reported unless it went behind the walk's back, and
// what is reported hangs together.
TEST_F(LookupWalkTest, ABlockThatGoesBetweenTwoStepsEndsThePrefixThere) {
  for (const uint64_t gone : {uint64_t{0}, uint64_t{63}, uint64_t{64}, uint64_t{500}, uint64_t{999}}) {
    for (int after = 0; after < 40; ++after) {
      LookupWalk walk(query_, index_, nullptr);
      bool more = true;
      for (int i = 0; i < after && more; ++i) more = walk.Step();
      Remove(gone);
      while (more) more = walk.Step();
      const LookupResult result = walk.TakeResult();
      ASSERT_TRUE(result.n_present == gone || result.n_present == kBlocks) << gone << " after " << after;
      if (after <= 16) {
        ASSERT_EQ(result.n_present, gone) << "the way back came later";
      }
      for (const CheckpointInfo& info : result.checkpoints) {
        ASSERT_LE(info.depth_tokens, 256 * result.n_present + 7) << gone << " after " << after;
      }
      ASSERT_EQ(result.checkpoints.size(), result.n_present / 100 + 1);
      Insert(MakeObject(gone, gone == 0 ? kRoot : gone - 1, static_cast<uint32_t>(256 * (gone + 1)), 1));
    }
  }
}

TEST(StoreLookup, HeldPrefixesAreAlwaysFoundWhileOthersPushObjectsOut) {
  constexpr uint64_t kHeld = 100;
  constexpr uint64_t kChain = 300;
  const absl::Time now = absl::FromUnixSeconds(1000);
  auto store = std::move(*Store::Create({.capacity_bytes = 400 * Store::ChargeOf(1), .parked_share = 0.5}));
  const auto put = [&](const Object& object) {
    auto opened = store->Open(object.head, now);
    if (!opened.ok() || !std::holds_alternative<Store::Reservation>(*opened)) return;
    auto& reservation = std::get<Store::Reservation>(*opened);
    ASSERT_TRUE(reservation.Append(0, object.payload).ok());
    ASSERT_TRUE(store->Commit(std::move(reservation), now).ok());
  };
  const auto block = [](uint64_t id) {
    return MakeObject(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1)), 1);
  };
  for (uint64_t id = 0; id < kHeld; ++id) put(Parked(block(id), now + absl::Hours(1)));
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;
  others.emplace_back([&] {
    for (uint64_t id = 10000; !stop; ++id) put(MakeObject(id, kRoot, 256, 1));
  });
  others.emplace_back([&] {
    while (!stop) {
      for (uint64_t id = kHeld; id < kChain; ++id) put(block(id));
      std::vector<ObjectKey> keys;
      for (uint64_t id = kHeld + 50; id < kChain; ++id) keys.push_back(BlockKeyOf(id));
      store->Drop(keys);
    }
  });
  LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
  for (uint64_t id = 0; id < kChain; ++id) query.chain.push_back(Hash(id));
  for (int i = 0; i < 500; ++i) {
    const LookupResult result = *store->Lookup(query);
    ASSERT_GE(result.n_present, kHeld);
    ASSERT_LE(result.n_present, kChain);
  }
  stop = true;
  for (std::thread& other : others) other.join();
}

}  // namespace
}  // namespace longshelf::kvstore
