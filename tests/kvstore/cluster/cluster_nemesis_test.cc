// A cluster under random faults, in simulated time. LONGSHELF_NEMESIS_ROUNDS and LONGSHELF_NEMESIS_SEED run more of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kLater = absl::FromUnixSeconds(4'000'000'000);
constexpr size_t kNodes = 5;
constexpr absl::Duration kPutTimeout = absl::Seconds(2);
constexpr absl::Duration kGetTimeout = absl::Seconds(5);

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Puts, parks, reads and drops while nodes die, hang, stutter and come back, some of them empty; at most two are sick
// at once. What must hold:
//   - what is read is what was put;
//   - what was parked on two nodes is there as long as at most one node is sick or was emptied since;
//   - every call ends by its deadline.
class Nemesis {
 public:
  explicit Nemesis(uint64_t seed) : random_(seed), cluster_(kNodes), sick_(kNodes) {
    for (uint64_t id = 1; id <= 400; ++id) {
      objects_.push_back(MakeObject(id, 0, 256, 200 + id % 300));
      objects_.back().head.extent = Hash(id % 40);
    }
  }

  void Round() {
    for (size_t i = 0; i < kNodes; ++i) MaybeHeal(i);
    for (size_t i = 0; i < kNodes; ++i) MaybeHarm(i);
    std::vector<size_t> some;
    for (uint64_t n = 1 + random_() % 12; n > 0; --n) some.push_back(random_() % objects_.size());
    switch (random_() % 16) {
      case 0:
        return Drop(some);
      case 1:
      case 2:
      case 3:
      case 4:
        return Put(some);
      case 5:
      case 6:
      case 7:
      case 8:
        return Park(some);
      default:
        return Read(some);
    }
  }

  int n_hits() const { return n_hits_; }
  int n_promised() const { return n_promised_; }

 private:
  size_t NumberOfSick() const { return kNodes - static_cast<size_t>(std::count(sick_.begin(), sick_.end(), 0)); }

  void MaybeHeal(size_t i) {
    if (sick_[i] == 0 || --sick_[i] > 0) return;
    SimulatedStore& node = cluster_.node(i);
    node.down = absl::OkStatus();
    node.latency = node.object_latency = absl::ZeroDuration();
    // Time for everybody to see that it is back.
    cluster_.Pass(absl::Seconds(11), absl::Milliseconds(100));
  }

  void MaybeHarm(size_t i) {
    if (sick_[i] > 0 || NumberOfSick() >= 2 || random_() % 60 != 0) return;
    sick_[i] = 1 + static_cast<int>(random_() % 20);
    SimulatedStore& node = cluster_.node(i);
    switch (random_() % 4) {
      case 0:
        node.latency = absl::Hours(1);
        return;
      case 1:
        node.object_latency = absl::Milliseconds(random_() % 50);
        return;
      case 2:
        node.Restart();
        for (auto& [object, emptied] : parked_) emptied.insert(i);
        [[fallthrough]];
      default:
        node.down = absl::UnavailableError("connection refused");
    }
  }

  void Put(const std::vector<size_t>& some) {
    std::vector<PutItem> puts;
    for (const size_t i : some) puts.push_back(ItemOf(objects_[i]));
    EXPECT_LE(cluster_.PutAll(puts, kPutTimeout).took, kPutTimeout + absl::Milliseconds(1));
  }

  void Park(const std::vector<size_t>& some) {
    std::vector<PutItem> puts;
    for (const size_t i : some) puts.push_back(ItemOf(Parked(objects_[i], kLater), 2, Ack::kMemoryAll));
    const auto put = cluster_.PutAll(puts, kPutTimeout);
    EXPECT_LE(put.took, kPutTimeout + absl::Milliseconds(1));
    for (size_t n = 0; n < some.size(); ++n) {
      if (put.outcomes.at(n).ok()) parked_[some[n]].clear();
    }
  }

  void Drop(const std::vector<size_t>& some) {
    std::vector<PlacedKey> keys;
    for (const size_t i : some) keys.push_back({objects_[i].head.key, objects_[i].head.extent});
    (void)cluster_.Drop(keys);
    for (const size_t i : some) parked_.erase(i);
  }

  void Read(const std::vector<size_t>& some) {
    std::vector<GetItem> wants;
    for (const size_t i : some) wants.push_back(WantOf(objects_[i]));
    const auto got = cluster_.Get(wants, kGetTimeout);
    EXPECT_LE(got.took, kGetTimeout + absl::Milliseconds(1));
    for (size_t n = 0; n < some.size(); ++n) {
      if (got.objects[n].ok()) {
        ++n_hits_;
        EXPECT_EQ(got.objects[n]->payload, objects_[some[n]].payload);
      }
      const auto promise = parked_.find(some[n]);
      if (promise == parked_.end() || promise->second.size() + NumberOfSick() > 1) continue;
      ++n_promised_;
      EXPECT_TRUE(got.objects[n].ok()) << "object " << some[n] << ": " << got.objects[n].status();
    }
  }

  std::mt19937_64 random_;
  SimulatedCluster cluster_;
  std::vector<Object> objects_;
  std::map<size_t, std::set<size_t>> parked_;  // object: nodes emptied since it was parked
  std::vector<int> sick_;                      // per node: rounds left
  int n_hits_ = 0;
  int n_promised_ = 0;
};

TEST(ClusterNemesis, RandomFaultsCostMissesAndNothingElse) {
  const uint64_t seed = FromEnvironment("LONGSHELF_NEMESIS_SEED", 20261127);
  const uint64_t n_rounds = FromEnvironment("LONGSHELF_NEMESIS_ROUNDS", 20'000);
  Nemesis nemesis(seed);
  for (uint64_t round = 0; round < n_rounds; ++round) {
    nemesis.Round();
    ASSERT_FALSE(::testing::Test::HasFailure()) << "seed " << seed << ", round " << round;
  }
  EXPECT_GT(nemesis.n_hits(), n_rounds);
  EXPECT_GT(nemesis.n_promised(), n_rounds / 10);
}

}  // namespace
}  // namespace longshelf::kvstore
