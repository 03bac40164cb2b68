// What goes when memory is short: hit ratios of replayed traces, floors of namespaces, and that a put that fails has
// pushed nobody out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kvstore/store.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1ull << 40;
const absl::Time kNow = absl::FromUnixSeconds(1700000000);

// A session: a chain of blocks that begins with `n_shared` blocks of a prompt that others begin with too.
struct Session {
  uint64_t id = 0;
  uint64_t shared_id = 0;
  uint64_t n_shared = 0;

  std::vector<uint64_t> Chain(uint64_t n_blocks) const {
    std::vector<uint64_t> chain;
    for (uint64_t i = 0; i < n_blocks; ++i) chain.push_back((i < n_shared ? shared_id : id) * 100000 + i);
    return chain;
  }
};

// Does with a store what a worker does with a request: looks the prompt up, fetches what is there, puts the rest.
class TraceReplay {
 public:
  TraceReplay(uint64_t n_objects, EvictionPolicy eviction) {
    store_ = std::move(
        *Store::Create({.capacity_bytes = n_objects * Store::ChargeOf(1), .parked_share = 0, .eviction = eviction}));
  }

  // `chain` names the blocks of a prompt, each with all before it.
  void Request(std::span<const uint64_t> chain, bool measured) {
    LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
    for (const uint64_t block : chain) query.chain.push_back(Hash(block));
    const uint64_t n_present = store_->Lookup(query)->n_present;
    for (const uint64_t block : chain.first(n_present)) {
      ASSERT_TRUE(store_->Get(BlockKeyOf(block), FingerprintOf(1)).ok());
    }
    if (measured) {
      n_asked_ += chain.size();
      n_hits_ += n_present;
    }
    for (uint64_t i = n_present; i < chain.size(); ++i) {
      const uint64_t parent = i == 0 ? kRoot : chain[i - 1];
      if (!Put(MakeObject(chain[i], parent, static_cast<uint32_t>(256 * (i + 1)), 1))) return;
    }
  }

  double HitPercent() const { return 100.0 * static_cast<double>(n_hits_) / static_cast<double>(n_asked_); }

 private:
  bool Put(const Object& object) {
    auto opened = store_->Open(object.head, kNow);
    if (!opened.ok()) return false;
    if (std::holds_alternative<Store::Exists>(*opened)) return true;
    auto& reservation = std::get<Store::Reservation>(*opened);
    return reservation.Append(0, object.payload).ok() && store_->Commit(std::move(reservation), kNow).ok();
  }

  std::unique_ptr<Store> store_;
  uint64_t n_asked_ = 0;
  uint64_t n_hits_ = 0;
};

struct Trace {
  const char* name;
  int n_requests;
  // Sessions that are alive at once; each request continues one of them by some blocks, or replaces it by a new one.
  int n_alive;
  double p_new;
  int n_prompts;   // of systems, which sessions begin with
  int scan_every;  // a prompt of 1 Mi tokens that nobody continues comes after so many requests; 0: never
  double skew;     // of the choice among the living: 1 is even, larger prefers some
};

// The memory has room for 3,000 blocks: a scan is longer than that.
double HitPercent(const Trace& trace, EvictionPolicy eviction) {
  TraceReplay replay(3000, eviction);
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> unit(0, 1);
  struct Alive {
    Session session;
    uint64_t n_blocks;
  };
  uint64_t next_id = 1000;
  const auto begin = [&] {
    const uint64_t n_shared = 4 + random() % 12;
    return Alive{{next_id++, random() % static_cast<uint64_t>(trace.n_prompts), n_shared}, n_shared + 2 + random() % 8};
  };
  std::vector<Alive> alive;
  for (int i = 0; i < trace.n_alive; ++i) alive.push_back(begin());
  for (int i = 0; i < trace.n_requests; ++i) {
    const double place = std::pow(unit(random), trace.skew);
    Alive& chosen = alive[std::min(alive.size() - 1, static_cast<size_t>(place * static_cast<double>(alive.size())))];
    if (unit(random) < trace.p_new) chosen = begin();
    replay.Request(chosen.session.Chain(chosen.n_blocks), /*measured=*/i >= trace.n_requests / 10);
    chosen.n_blocks += 1 + random() % 3;
    if (trace.scan_every > 0 && i % trace.scan_every == trace.scan_every - 1) {
      replay.Request(Session{next_id++, 0, 0}.Chain(4096), /*measured=*/false);
    }
  }
  return replay.HitPercent();
}

constexpr Trace kWithoutScans[] = {
    {"few long sessions", 2500, 60, 0.03, 8, 0, 1.0},
    {"more sessions than fit", 2500, 400, 0.1, 8, 0, 1.0},
    {"some sessions are busier", 2500, 400, 0.1, 8, 0, 3.0},
    {"single requests with a shared prompt", 2500, 400, 0.9, 40, 0, 2.0},
};
constexpr Trace kWithScans[] = {
    {"few long sessions and scans", 2500, 60, 0.03, 8, 50, 1.0},
    {"some sessions are busier, and scans", 2500, 400, 0.1, 8, 50, 3.0},
    {"single requests with a shared prompt, and scans", 2500, 400, 0.9, 40, 50, 2.0},
};

TEST(StoreEviction, WithoutScansItKeepsWhatLruKeepsWithinAPoint) {
  for (const Trace& trace : kWithoutScans) {
    const double lru = HitPercent(trace, EvictionPolicy::kLru);
    const double ours = HitPercent(trace, EvictionPolicy::kScanResistant);
    std::printf("%-50s LRU %5.1f %%  scan resistant %5.1f %%\n", trace.name, lru, ours);
    EXPECT_GE(ours, lru - 1) << trace.name;
    EXPECT_GT(lru, 5) << "the trace must have something to hit";
  }
}

// Later than a small queue of a fifth would keep it, and often enough to tell.
TEST(StoreEviction, WhatComesBackLateIsKeptAsByLruThoughItComesBackOnce) {
  constexpr uint64_t kPromptBlocks = 10;
  constexpr uint64_t kPrompts = 3000;
  constexpr uint64_t kBackAfter = 100;  // prompts: a third of the room is new since then, and a third came back
  const auto hit_percent = [](EvictionPolicy eviction) {
    TraceReplay replay(3000, eviction);
    for (uint64_t i = 0; i < kPrompts; ++i) {
      const bool measured = i > kPrompts / 2;
      replay.Request(Session{1000 + i, 0, 0}.Chain(kPromptBlocks), measured);
      if (i >= kBackAfter) replay.Request(Session{1000 + i - kBackAfter, 0, 0}.Chain(kPromptBlocks), measured);
    }
    return replay.HitPercent();
  };
  EXPECT_GT(hit_percent(EvictionPolicy::kLru), 49);
  EXPECT_GT(hit_percent(EvictionPolicy::kScanResistant), 49);
}

// Prompts of a published trace: JSON lines with "hash_ids", as in Mooncake's FAST'25 release.
std::vector<std::vector<uint64_t>> ReadTrace(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::vector<uint64_t>> prompts;
  for (std::string line; std::getline(file, line);) {
    prompts.push_back(nlohmann::json::parse(line).at("hash_ids").get<std::vector<uint64_t>>());
  }
  return prompts;
}

// With scans, a prompt of 1 Mi tokens that nobody continues comes after every 100 requests.
double HitPercent(std::span<const std::vector<uint64_t>> prompts, uint64_t n_objects, bool scans,
                  EvictionPolicy eviction) {
  constexpr uint64_t kTokensPerBlock = 512;
  TraceReplay replay(n_objects, eviction);
  for (size_t i = 0; i < prompts.size(); ++i) {
    replay.Request(prompts[i], /*measured=*/true);
    if (!scans || i % 100 != 99) continue;
    replay.Request(Session{1000000 + i, 0, 0}.Chain((1 << 20) / kTokensPerBlock), /*measured=*/false);
  }
  return replay.HitPercent();
}

TEST(StoreEviction, PublishedTracesHitAsOftenAsUnderLruAndOftenerWithScans) {
  const char* path = std::getenv("LONGSHELF_TRACE");
  if (path == nullptr) GTEST_SKIP() << "LONGSHELF_TRACE=FILE names a trace: JSON lines with hash_ids";
  const std::vector<std::vector<uint64_t>> prompts = ReadTrace(path);
  std::set<uint64_t> blocks;
  for (const auto& prompt : prompts) blocks.insert(prompt.begin(), prompt.end());
  ASSERT_GT(blocks.size(), 1000u) << path;
  std::printf("%zu prompts, %zu blocks\n", prompts.size(), blocks.size());
  for (const double share : {0.03, 0.1, 0.3, 1.0}) {
    for (const bool scans : {false, true}) {
      const auto n_objects = static_cast<uint64_t>(share * static_cast<double>(blocks.size()));
      const double lru = HitPercent(prompts, n_objects, scans, EvictionPolicy::kLru);
      const double ours = HitPercent(prompts, n_objects, scans, EvictionPolicy::kScanResistant);
      std::printf("room for %3.0f %% of the blocks%s  LRU %5.1f %%  scan resistant %5.1f %%\n", 100 * share,
                  scans ? ", scans" : "       ", lru, ours);
      EXPECT_GE(ours, lru - 1) << share << scans;
    }
  }
}

TEST(StoreEviction, APromptThatIsReadOnceDoesNotFlushWhatIsInUse) {
  for (const Trace& trace : kWithScans) {
    const double lru = HitPercent(trace, EvictionPolicy::kLru);
    const double ours = HitPercent(trace, EvictionPolicy::kScanResistant);
    std::printf("%-50s LRU %5.1f %%  scan resistant %5.1f %%\n", trace.name, lru, ours);
    EXPECT_GE(ours, lru + 5) << trace.name;
  }
}

class StoreRoom : public ::testing::TestWithParam<EvictionPolicy> {
 protected:
  static constexpr size_t kPayload = 100000;
  static uint64_t RoomFor(uint64_t n) { return n * Store::ChargeOf(kPayload); }

  void Make(uint64_t n_objects, double floor_share) {
    store_ = std::move(*Store::Create({.capacity_bytes = RoomFor(n_objects),
                                       .parked_share = 0.5,
                                       .eviction = GetParam(),
                                       .small_share = 0.2,
                                       .floor_share = floor_share}));
  }

  absl::Status Put(uint64_t id, uint64_t parent, uint32_t depth, const std::string& namespace_id = "ns",
                   size_t n_bytes = kPayload) {
    Object object = MakeObject(id, parent, depth, n_bytes);
    object.head.namespace_id = namespace_id;
    auto opened = store_->Open(object.head, kNow);
    if (!opened.ok()) return opened.status();
    auto& reservation = std::get<Store::Reservation>(*opened);
    if (auto status = reservation.Append(0, object.payload); !status.ok()) return status;
    return store_->Commit(std::move(reservation), kNow).status();
  }

  std::unique_ptr<Store> store_;
};

TEST_P(StoreRoom, APutThatCannotFitPushesNobodyOut) {
  Make(12, 0);
  // Evictable by themselves, but a reader holds the end of their chain.
  for (uint64_t id = 0; id < 8; ++id) {
    ASSERT_TRUE(Put(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1))).ok());
  }
  const auto reader = store_->Get(BlockKeyOf(7), FingerprintOf(1));
  ASSERT_TRUE(reader.ok());
  for (uint64_t id = 20; id < 24; ++id) ASSERT_TRUE(Put(id, kRoot, 256).ok());
  EXPECT_EQ(Put(100, kRoot, 256, "ns", 6 * kPayload).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_->Stats(kNow).n_objects, 12u);
  EXPECT_EQ(store_->Stats(kNow).n_evicted, 0u);
  // What the four beside the chain free is enough for this one.
  EXPECT_TRUE(Put(101, kRoot, 256, "ns", 3 * kPayload).ok());
}

TEST_P(StoreRoom, ParentsCountAsRoomOnceAllTheirChildrenDo) {
  Make(12, 0);
  for (uint64_t id = 0; id < 12; ++id) {
    ASSERT_TRUE(Put(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1))).ok());
  }
  EXPECT_TRUE(Put(100, kRoot, 256, "ns", 11 * kPayload).ok());
}

TEST_P(StoreRoom, AFloodOfOneNamespaceLeavesTheOthersTheirFloor) {
  Make(400, 0.5);
  for (uint64_t id = 0; id < 300; ++id) ASSERT_TRUE(Put(id, kRoot, 256, "quiet").ok());
  for (uint64_t id = 1000; id < 3000; ++id) ASSERT_TRUE(Put(id, kRoot, 256, "loud").ok());
  // Half of the store, divided by two.
  EXPECT_NEAR(static_cast<double>(store_->StatsOf("quiet", kNow).n_objects), 100, 1);
  EXPECT_NEAR(static_cast<double>(store_->StatsOf("loud", kNow).n_objects), 300, 1);
}

// While namespaces come, grow and go, which moves everybody's floor.
TEST_P(StoreRoom, NobodyLosesWhatIsUnderHisFloorWhileAnotherHasMoreThanHis) {
  constexpr uint64_t kObjects = 600;
  constexpr size_t kNamespaces = 150;
  Make(kObjects, 0.6);
  const double floor_objects = 0.6 * kObjects;
  std::mt19937_64 random(7);
  std::map<std::string, uint64_t> held;
  size_t n_checked = 0;
  for (uint64_t id = 0; id < 4000; ++id) {
    // Skewed: some have many.
    const std::string name = "tenant " + std::to_string(std::min(random() % kNamespaces, random() % kNamespaces));
    if (id % 50 == 49) {
      store_->DropNamespace(name);
      held.erase(name);
      continue;
    }
    const uint64_t n_evicted = store_->Stats(kNow).n_evicted;
    const size_t n_namespaces = held.size();
    if (!Put(id, kRoot, 256, name).ok()) continue;  // nobody has asked for it yet
    ++held[name];
    if (store_->Stats(kNow).n_evicted == n_evicted) continue;
    const auto shrunk = std::ranges::find_if(
        held, [&](const auto& each) { return store_->StatsOf(each.first, kNow).n_objects != each.second; });
    ASSERT_NE(shrunk, held.end());
    const double floor = floor_objects / static_cast<double>(n_namespaces);
    const bool any_over = std::ranges::any_of(
        held, [&](const auto& each) { return static_cast<double>(each.second - (each.first == name)) > floor * 1.02; });
    if (any_over) {
      EXPECT_GT(static_cast<double>(shrunk->second - (shrunk->first == name)), floor * 0.98) << id;
      ++n_checked;
    }
    if (--shrunk->second == 0) held.erase(shrunk);
  }
  EXPECT_GT(n_checked, 500u);
}

TEST_P(StoreRoom, FloorsNeverMakeAPutFail) {
  Make(12, 1.0);
  for (uint64_t id = 0; id < 100; ++id)
    ASSERT_TRUE(Put(id, kRoot, 256, "tenant " + std::to_string(id % 12)).ok()) << id;
}

INSTANTIATE_TEST_SUITE_P(Policies, StoreRoom, ::testing::Values(EvictionPolicy::kScanResistant, EvictionPolicy::kLru));

TEST(StoreEviction, AChainThatIsReadOnceMayFillTheSmallQueueAndNoMore) {
  auto store = std::move(*Store::Create({.capacity_bytes = 1000 * Store::ChargeOf(1), .small_share = 0.2}));
  const auto put = [&](uint64_t id, uint64_t parent, uint32_t depth) {
    const Object object = MakeObject(id, parent, depth, 1);
    auto opened = store->Open(object.head, kNow);
    if (!opened.ok()) return opened.status();
    if (std::holds_alternative<Store::Exists>(*opened)) return absl::OkStatus();
    auto& reservation = std::get<Store::Reservation>(*opened);
    EXPECT_TRUE(reservation.Append(0, object.payload).ok());
    return store->Commit(std::move(reservation), kNow).status();
  };
  std::vector<ObjectKey> in_use;
  for (uint64_t id = 0; id < 900; ++id) {
    ASSERT_TRUE(put(id, kRoot, 256).ok());
    in_use.push_back(BlockKeyOf(id));
  }
  store->Touch(in_use, absl::UnixEpoch(), kNow);
  const auto scan = [&] {
    uint64_t n_kept = 0;
    for (uint64_t i = 0; i < 4096; ++i) {
      const uint64_t id = 100000 + i;
      n_kept += put(id, i == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (i + 1))).ok() ? 1 : 0;
    }
    return n_kept;
  };
  const uint64_t n_kept = scan();
  EXPECT_NEAR(static_cast<double>(n_kept), 200, 2);
  EXPECT_GE(store->Touch(in_use, absl::UnixEpoch(), kNow).n_present, 798u) << "the small queue's share was theirs";
  // Who comes twice is no scan: what was turned away is remembered, as many as there are objects.
  EXPECT_GT(scan(), n_kept + 500);
}

}  // namespace
}  // namespace longshelf::kvstore
