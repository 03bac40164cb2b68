// Two clients and five nodes that repair, under random faults, in simulated time. Every run of the tests takes 30 s of
// it with a fixed seed; for the long version, and to see a failure again:
//   LONGSHELF_NEMESIS_SECONDS=600 LONGSHELF_NEMESIS_SEED=$RANDOM kvstore_cluster_nemesis_test
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "faulty_cluster.h"
#include "items.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Time kLater = absl::FromUnixSeconds(4'000'000'000);
constexpr size_t kNodes = 5;
constexpr size_t kClients = 2;
constexpr size_t kObjects = 300;
constexpr absl::Duration kTick = absl::Milliseconds(2);

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

RepairOptions QuickRepair() {
  RepairOptions options;
  options.interval = absl::Seconds(10);
  options.down_after = absl::Seconds(5);
  return options;
}

// What must hold, whatever happens:
//   - what is read is what was put: of a key that two writers differ about, one writer's bytes;
//   - the bytes that a node holds under a key never change, and what it retains goes only with the whole node;
//   - an acknowledgement is true when it is given: so many nodes have it, retain it, have it on disk;
//   - nobody says NOT_FOUND of what a node that was to be asked has retained all the time;
//   - every call ends by its deadline, and nothing is left of it;
//   - when all is well again, what was acknowledged and not lost with its nodes is read by everybody, and retained by
//     as many nodes as it should be.
class Nemesis {
 public:
  explicit Nemesis(uint64_t seed) : random_(seed), cluster_(kNodes, kClients, QuickRepair(), seed), objects_(kObjects) {
    for (size_t i = 0; i < kObjects; ++i) {
      objects_[i].value = MakeObject(i + 1, 0, 256, 100 + i % 200);
      objects_[i].value.head.extent = Hash(i % 40);
      objects_[i].other = objects_[i].value;
      objects_[i].other.payload[i % 100] ^= std::byte{1};
      objects_[i].other.head.digest = DigestOf(objects_[i].other.payload);
      objects_[i].holders.resize(kNodes);
    }
    for (size_t i = 0; i + 1 < kNodes; ++i) cluster_.node(i).has_disk = true;
    views_.assign(kClients, cluster_.members);
    n_emptied_.assign(kNodes, 0);
  }

  // A minute of faults, and what is left when they are over.
  void Round() {
    for (int tick = 0; tick < 30'000 && !::testing::Test::HasFailure(); ++tick) {
      if (tick % 10 == 0) ChangeFaults();
      if (random_() % 8 == 0) Call();
      cluster_.Pass(kTick, kTick);
      if (tick % 50 == 0) CheckStores();
      CheckDeadlines();
    }
    Heal();
    if (!::testing::Test::HasFailure()) CheckWhole();
  }

  int n_hits = 0;
  int n_kept = 0;      // acknowledgements of parked objects
  int n_promised = 0;  // reads of what could not be NOT_FOUND
  int n_faults = 0;
  int n_drained = 0;

 private:
  struct Holder {
    bool retains = false;
    const Object* holds = nullptr;
  };
  struct Known {
    Object value;
    Object other;                  // another writer's
    bool is_acknowledged = false;  // and not lost with all that held it
    std::vector<Holder> holders;   // as last seen
  };
  struct Fault {
    absl::Time until;
    std::function<void()> end;
  };

  // The last objects are dropped now and then, so nothing is promised of them.
  static bool IsDropped(size_t i) { return i >= kObjects - 30; }
  // Two writers differ about some of the rest.
  const Object& SomeVersion(size_t i) {
    return !IsDropped(i) && i % 7 == 0 && random_() % 2 == 0 ? objects_[i].other : objects_[i].value;
  }
  absl::Duration Between(absl::Duration low, absl::Duration high) {
    return low + absl::Milliseconds(random_() % (absl::ToInt64Milliseconds(high - low) + 1));
  }
  std::vector<size_t> Some() {
    std::set<size_t> some;
    for (uint64_t n = 1 + random_() % 8; n > 0; --n) some.insert(random_() % kObjects);
    return {some.begin(), some.end()};
  }

  void ChangeFaults() {
    for (auto fault = faults_.begin(); fault != faults_.end();) {
      if (fault->second.until > cluster_.clock.Now()) {
        ++fault;
        continue;
      }
      fault->second.end();
      fault = faults_.erase(fault);
    }
    if (faults_.size() >= 4 || random_() % 20 != 0) return;
    ++n_faults;
    const size_t node = random_() % kNodes;
    switch (random_() % 10) {
      case 0:
        return Cut(/*one_way=*/true);
      case 1:
        return Cut(/*one_way=*/false);
      case 2:
        return Split();
      case 3:
        return Kill(node, random_() % 2 == 0);
      case 4:
        cluster_.Stop(node, true);
        return Until("stop", node, Between(absl::Seconds(1), absl::Seconds(20)),
                     [this, node] { cluster_.Stop(node, false); });
      case 5:
        cluster_.node(node).latency = Between(absl::Milliseconds(20), absl::Milliseconds(200));
        return Until("slow", node, Between(absl::Seconds(1), absl::Seconds(10)),
                     [this, node] { cluster_.node(node).latency = absl::ZeroDuration(); });
      case 6:
        cluster_.node(node).wall_skew = random_() % 2 == 0 ? absl::Hours(1) : -absl::Hours(1);
        return Until("clock", node, Between(absl::Seconds(1), absl::Seconds(30)),
                     [this, node] { cluster_.node(node).wall_skew = absl::ZeroDuration(); });
      case 7:
        cluster_.network.delay_max = Between(absl::Milliseconds(1), absl::Milliseconds(40));
        return Until("delay", 0, Between(absl::Seconds(1), absl::Seconds(10)),
                     [this] { cluster_.network.delay_max = absl::ZeroDuration(); });
      case 8:
        return ChangeView(random_() % kClients, node);
      default:
        return Drain(node);
    }
  }

  // One of a kind for each node; the last one counts.
  void Until(const std::string& kind, size_t node, absl::Duration time, std::function<void()> end) {
    faults_[absl::StrCat(kind, node)] = {cluster_.clock.Now() + time, std::move(end)};
  }
  std::vector<std::string> Everybody() const {
    std::vector<std::string> all;
    for (size_t i = 0; i < kClients; ++i) all.push_back(absl::StrCat("client", i));
    for (size_t i = 0; i < kNodes; ++i) all.push_back(FaultyCluster::NameOf(i));
    return all;
  }
  void CutFor(const std::set<std::pair<std::string, std::string>>& cuts, absl::Duration time) {
    cluster_.network.cuts.insert(cuts.begin(), cuts.end());
    Until("cut", random_(), time, [this, cuts] {
      for (const auto& cut : cuts) cluster_.network.cuts.erase(cut);
    });
  }
  void Cut(bool one_way) {
    const auto all = Everybody();
    const std::string a = all[random_() % all.size()];
    const std::string b = all[random_() % all.size()];
    std::set<std::pair<std::string, std::string>> cuts = {{a, b}};
    if (!one_way) cuts.emplace(b, a);
    CutFor(cuts, Between(absl::Milliseconds(100), absl::Seconds(10)));
  }
  void Split() {
    std::set<std::pair<std::string, std::string>> cuts;
    const uint64_t sides = random_();
    const auto all = Everybody();
    for (size_t a = 0; a < all.size(); ++a) {
      for (size_t b = 0; b < all.size(); ++b) {
        if ((sides >> a & 1) != (sides >> b & 1)) cuts.emplace(all[a], all[b]);
      }
    }
    CutFor(cuts, Between(absl::Milliseconds(100), absl::Seconds(15)));
  }
  void Kill(size_t node, bool keeps_disk) {
    cluster_.node(node).down = absl::UnavailableError("connection refused");
    Empty(node, keeps_disk);
    Until("kill", node, Between(absl::Milliseconds(200), absl::Seconds(15)),
          [this, node] { cluster_.node(node).down = absl::OkStatus(); });
  }
  void ChangeView(size_t client, size_t without) {
    views_[client] = cluster_.members;
    views_[client].erase(views_[client].begin() + static_cast<std::ptrdiff_t>(without));
    cluster_.client(client).SetMembers(views_[client]);
    Until("view", client, Between(absl::Seconds(1), absl::Seconds(20)), [this, client] {
      views_[client] = cluster_.members;
      cluster_.client(client).SetMembers(views_[client]);
    });
  }
  // It leaves, and joins again with nothing, or, when it could not hand over in time, with what is on its disk.
  void Drain(size_t node) {
    if (!cluster_.node(node).down.ok() || faults_.contains(absl::StrCat("drain", node))) return;
    const auto is_done = std::make_shared<bool>(false);
    std::vector<size_t> had;
    for (size_t i = 0; i < kObjects; ++i) {
      if (!IsDropped(i) && LookAt(node, objects_[i]).retains) had.push_back(i);
    }
    cluster_.repair(node).HandOver([this, node, is_done, had, n_before = n_emptied_] {
      *is_done = true;
      ++n_drained;
      if (n_before != n_emptied_) return;
      for (const size_t i : had)
        EXPECT_GE(Retainers(i), 2) << "object " << i << " was only on " << node << ", which leaves";
    });
    Until("drain", node, absl::Seconds(15), [this, node, is_done] {
      if (cluster_.node(node).down.ok()) Kill(node, /*keeps_disk=*/!*is_done);
    });
  }
  void Empty(size_t node, bool keeps_disk) {
    ++n_emptied_[node];
    CheckStores();  // what they have by now
    cluster_.Restart(node, keeps_disk);
    for (Known& object : objects_) {
      object.holders[node] = LookAt(node, object);
      const bool is_left = std::any_of(object.holders.begin(), object.holders.end(),
                                       [](const Holder& holder) { return holder.retains; });
      object.is_acknowledged = object.is_acknowledged && is_left;
    }
  }
  void Heal() {
    for (auto& [name, fault] : std::exchange(faults_, {})) fault.end();
    for (auto& [name, fault] : std::exchange(faults_, {})) fault.end();  // who was drained is back
    // Longer than any call, any pause of a breaker, and two passes of repair.
    cluster_.Pass(absl::Seconds(45), absl::Milliseconds(10));
  }

  // What a node holds, by the eye of no client.
  Holder LookAt(size_t node, const Known& object) {
    const auto held = cluster_.node(node).Read(object.value.head.key, FingerprintOf(1));
    if (held == nullptr) return {};
    Holder holder;
    if (held->payload == object.value.payload) holder.holds = &object.value;
    if (held->payload == object.other.payload) holder.holds = &object.other;
    EXPECT_NE(holder.holds, nullptr) << "node " << node << " holds what nobody put";
    holder.retains = held->head.object_class == ObjectClass::kParked && held->head.retain_until >= kLater;
    return holder;
  }
  int Retainers(size_t i) {
    int n = 0;
    for (size_t node = 0; node < kNodes; ++node) n += LookAt(node, objects_[i]).retains ? 1 : 0;
    return n;
  }
  void CheckStores() {
    for (size_t i = 0; i < kObjects; ++i) {
      for (size_t node = 0; node < kNodes; ++node) {
        Holder& before = objects_[i].holders[node];
        const Holder now = LookAt(node, objects_[i]);
        if (!IsDropped(i)) {
          EXPECT_TRUE(before.holds == nullptr || now.holds == before.holds) << "object " << i << " on " << node;
          EXPECT_TRUE(now.retains || !before.retains) << "object " << i << " on " << node;
        }
        before = now;
      }
    }
  }
  void CheckAcknowledged(size_t i, const PutItem& item, const std::vector<int>& n_before) {
    if (IsDropped(i)) return;
    int n_lost = 0;
    for (size_t node = 0; node < kNodes; ++node) n_lost += n_emptied_[node] - n_before[node];
    int n_in_memory = 0;
    int n_on_disk = 0;
    const bool is_parked = item.head.object_class == ObjectClass::kParked;
    for (size_t node = 0; node < kNodes; ++node) {
      const Holder holder = LookAt(node, objects_[i]);
      if (is_parked ? !holder.retains : holder.holds == nullptr) continue;
      ++n_in_memory;
      n_on_disk += cluster_.IsOnDisk(node, item.head.key) ? 1 : 0;
    }
    const int n_wanted = static_cast<int>(item.n_replicas);
    EXPECT_GE(n_in_memory + n_lost, item.ack == Ack::kMemoryOne ? 1 : n_wanted) << "object " << i;
    const int n_durable = item.ack == Ack::kDurableAll ? n_wanted : item.ack == Ack::kDurableOne ? 1 : 0;
    EXPECT_GE(n_on_disk + n_lost, n_durable) << "object " << i;
    if (!is_parked || n_in_memory == 0) return;
    ++n_kept;
    objects_[i].is_acknowledged = true;
  }

  struct Operation {
    absl::Time deadline;
    bool is_over = false;
  };
  std::shared_ptr<Operation> Begin(absl::Duration timeout) {
    calls_.push_back(std::make_shared<Operation>(Operation{cluster_.clock.Now() + timeout}));
    return calls_.back();
  }
  void CheckDeadlines() {
    std::erase_if(calls_, [](const auto& call) { return call->is_over; });
    for (const auto& call : calls_) EXPECT_LE(cluster_.clock.Now(), call->deadline + 2 * kTick) << "no answer";
  }
  static void End(const std::shared_ptr<Operation>& call) { EXPECT_FALSE(std::exchange(call->is_over, true)); }

  void Call() {
    if (calls_.size() >= 12) return;
    const size_t client = random_() % kClients;
    switch (random_() % 16) {
      case 0:
        return Drop(client);
      case 1:
      case 2:
        return Touch(client);
      case 3:
        return Lookup(client);
      case 4:
      case 5:
      case 6:
      case 7:
      case 8:
        return Put(client);
      default:
        return Get(client);
    }
  }
  PutItem SomeItem(size_t i) {
    Object object = SomeVersion(i);
    if (random_() % 4 == 0) return ItemOf(object);
    constexpr std::array kLevels = {Ack::kMemoryOne, Ack::kMemoryAll, Ack::kDurableOne, Ack::kDurableAll};
    return ItemOf(Parked(std::move(object), kLater), 1 + random_() % 3, kLevels[random_() % kLevels.size()]);
  }
  void Put(size_t client) {
    const auto some = Some();
    std::vector<PutItem> items;
    for (const size_t i : some) items.push_back(SomeItem(i));
    const auto call = Begin(absl::Seconds(3));
    Client::PutEvents events;
    events.on_outcome = [this, some, items, n_before = n_emptied_](size_t n,
                                                                   const absl::StatusOr<PutOutcome>& outcome) {
      if (outcome.ok()) CheckAcknowledged(some[n], items[n], n_before);
    };
    events.on_done = [call](const absl::Status&) { End(call); };
    const auto put = cluster_.client(client).Put(absl::Seconds(3), std::move(events));
    for (const PutItem& item : items) put->Offer(item);
    // Some writers think better of it, and some are not heard of again.
    const uint64_t end = random_() % 50;
    if (end == 0) put->Cancel();
    if (end > 1) put->Finish();
  }
  void Touch(size_t client) {
    const auto some = Some();
    TouchQuery query{.keys = {}, .retain_until = kLater, .ack = Ack::kMemoryAll, .n_replicas = 2};
    std::vector<PutItem> items;
    for (const size_t i : some) {
      items.push_back(ItemOf(Parked(objects_[i].value, kLater), 2, Ack::kMemoryAll));
      query.keys.push_back({items.back().head.key, items.back().head.extent});
    }
    const auto call = Begin(absl::Seconds(2));
    cluster_.client(client).Touch(
        query, absl::Seconds(2), [this, call, some, items, n_before = n_emptied_](absl::StatusOr<TouchResult> touched) {
          End(call);
          for (size_t n = 0; touched.ok() && n < some.size(); ++n) {
            if (touched->retained[n]) CheckAcknowledged(some[n], items[n], n_before);
          }
        });
  }
  void Drop(size_t client) {
    std::vector<PlacedKey> keys;
    for (const size_t i : Some()) {
      if (IsDropped(i)) keys.push_back({objects_[i].value.head.key, objects_[i].value.head.extent});
    }
    const auto call = Begin(absl::Seconds(1));
    cluster_.client(client).Drop(keys, absl::Seconds(1), [call](const absl::StatusOr<DropResult>&) { End(call); });
  }
  void Lookup(size_t client) {
    const auto call = Begin(absl::Seconds(1));
    cluster_.client(client).Lookup({.fingerprint = FingerprintOf(1), .root = Hash(random_() % 40), .chain = {}},
                                   absl::Seconds(1), [call](const absl::StatusOr<LookupResult>&) { End(call); });
  }
  // Which of the nodes that this client asks for an object retain it: {node, how often it was emptied}.
  std::vector<std::pair<size_t, int>> Promises(size_t client, size_t i) {
    std::vector<std::pair<size_t, int>> promises;
    const auto& view = views_[client];
    for (const size_t n : Placement(view).Candidates(objects_[i].value.head.extent, 2 + kSpareCandidates)) {
      for (size_t node = 0; node < kNodes; ++node) {
        if (FaultyCluster::NameOf(node) == view[n].address && LookAt(node, objects_[i]).retains) {
          promises.emplace_back(node, n_emptied_[node]);
        }
      }
    }
    return promises;
  }
  void CheckRead(size_t i, const absl::StatusOr<FetchedObject>& object,
                 const std::vector<std::pair<size_t, int>>& promises) {
    if (object.ok()) {
      ++n_hits;
      EXPECT_TRUE(object->payload == objects_[i].value.payload || object->payload == objects_[i].other.payload);
    }
    for (const auto& [node, n_before] : promises) {
      if (IsDropped(i) || n_emptied_[node] != n_before) continue;
      ++n_promised;
      EXPECT_FALSE(absl::IsNotFound(object.status())) << "object " << i << " is on " << node;
    }
  }
  void Get(size_t client) {
    const auto some = Some();
    Client::GetRequest request{.fingerprint = FingerprintOf(1), .items = {}, .timeout = absl::Seconds(5)};
    request.window_bytes = 200 + random_() % 2000;
    std::vector<std::vector<std::pair<size_t, int>>> promises;
    for (const size_t i : some) {
      request.items.push_back(WantOf(objects_[i].value));
      promises.push_back(Promises(client, i));
    }
    const auto call = Begin(absl::Seconds(5));
    const auto handle = std::make_shared<std::shared_ptr<Client::GetCall>>();
    Client::GetEvents events;
    const bool takes_what_it_gets = random_() % 20 != 0;
    events.on_object = [this, some, promises, handle, takes_what_it_gets](size_t n,
                                                                          const absl::StatusOr<FetchedObject>& object) {
      if (object.ok() && takes_what_it_gets) (*handle)->Release(object->payload.size());
      CheckRead(some[n], object, promises[n]);
    };
    events.on_done = [call](const absl::Status&) { End(call); };
    *handle = cluster_.client(client).Get(std::move(request), std::move(events));
    if (random_() % 50 == 0) (*handle)->Cancel();
  }

  // All is well again.
  void CheckWhole() {
    CheckDeadlines();
    EXPECT_TRUE(calls_.empty());
    EXPECT_EQ(cluster_.network.n_calls, 0) << "calls that nobody waits for";
    CheckStores();
    const Placement placement(cluster_.members);
    for (size_t i = 0; i < kObjects; ++i) {
      if (!objects_[i].is_acknowledged) continue;
      for (const size_t node : placement.Candidates(objects_[i].value.head.extent, 2)) {
        EXPECT_TRUE(objects_[i].holders[node].retains) << "object " << i << " on " << node;
      }
      for (size_t client = 0; client < kClients; ++client) ExpectRead(client, i);
    }
  }
  void ExpectRead(size_t client, size_t i) {
    std::optional<absl::StatusOr<FetchedObject>> got;
    Client::GetRequest request{
        .fingerprint = FingerprintOf(1), .items = {WantOf(objects_[i].value)}, .timeout = absl::Seconds(5)};
    const auto handle = cluster_.client(client).Get(
        std::move(request),
        {.on_object = [&](size_t, absl::StatusOr<FetchedObject> object) { got = std::move(object); },
         .on_done = [](const absl::Status&) {}});
    cluster_.Settle();
    ASSERT_TRUE(got.has_value()) << "object " << i;
    ASSERT_TRUE(got->ok()) << "object " << i << ": " << got->status();
    CheckRead(i, *got, {});
  }

  std::mt19937_64 random_;
  FaultyCluster cluster_;
  std::vector<Known> objects_;
  std::vector<std::vector<Member>> views_;  // per client
  std::vector<int> n_emptied_;              // per node: how often it was
  std::map<std::string, Fault> faults_;
  std::vector<std::shared_ptr<Operation>> calls_;
};

TEST(ClusterNemesis, RandomFaultsCostMissesAndNothingElse) {
  const uint64_t seed = FromEnvironment("LONGSHELF_NEMESIS_SEED", 20261127);
  const auto time = std::chrono::seconds(FromEnvironment("LONGSHELF_NEMESIS_SECONDS", 30));
  const auto begun = std::chrono::steady_clock::now();
  Nemesis nemesis(seed);
  int n_rounds = 0;
  do {
    nemesis.Round();
    ASSERT_FALSE(::testing::Test::HasFailure()) << "LONGSHELF_NEMESIS_SEED=" << seed << ", round " << n_rounds;
    ++n_rounds;
  } while (std::chrono::steady_clock::now() - begun < time);
  std::printf("seed %llu: %d rounds, %d faults, %d drained, %d reads, %d promised, %d acknowledged\n",
              static_cast<unsigned long long>(seed), n_rounds, nemesis.n_faults, nemesis.n_drained, nemesis.n_hits,
              nemesis.n_promised, nemesis.n_kept);
  EXPECT_GT(nemesis.n_faults, n_rounds * 10);
  EXPECT_GT(nemesis.n_hits, n_rounds * 500);
  EXPECT_GT(nemesis.n_promised, n_rounds * 100);
  EXPECT_GT(nemesis.n_kept, n_rounds * 100);
}

}  // namespace
}  // namespace longshelf::kvstore
