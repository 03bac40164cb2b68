#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cluster_client_impl.h"
#include "common/clock.h"
#include "items.h"
#include "kvstore/client.h"
#include "simulated_store.h"

namespace longshelf::kvstore {

// A client's view of a store that somebody else owns.
class Link final : public Client {
 public:
  explicit Link(SimulatedStore& store) : store_(store) {}
  void Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) override {
    store_.Lookup(query, timeout, std::move(done));
  }
  std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) override {
    return store_.Get(std::move(request), std::move(events));
  }
  std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) override {
    return store_.Put(timeout, std::move(events));
  }
  void Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) override {
    store_.Touch(std::move(query), timeout, std::move(done));
  }
  void Drop(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override {
    store_.Drop(std::move(keys), timeout, std::move(done));
  }
  void DropCache(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override {
    store_.DropCache(std::move(keys), timeout, std::move(done));
  }
  void DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) override {
    store_.DropNamespace(std::move(drop), timeout, std::move(done));
  }
  void List(ListQuery query, absl::Duration timeout, Done<ListResult> done) override {
    store_.List(std::move(query), timeout, std::move(done));
  }
  void Stats(absl::Duration timeout, Done<StoreStats> done) override { store_.Stats(timeout, std::move(done)); }

 private:
  SimulatedStore& store_;
};

// A cluster client and its stores in one thread, on a clock that the test moves.
class SimulatedCluster {
 public:
  explicit SimulatedCluster(size_t n_nodes, uint32_t n_replicas = 2) {
    for (size_t i = 0; i < n_nodes; ++i) Join(i);
    client = std::make_unique<ClusterClient>(clock, n_replicas, nullptr, [this](const Member& member) {
      return std::unique_ptr<Client>(std::make_unique<Link>(*stores.at(member.address)));
    });
    client->SetMembers(members);
    Settle();
  }
  // Ends what still runs: the stores answer no more.
  ~SimulatedCluster() { client.reset(); }

  static std::string NameOf(size_t i) { return absl::StrCat("node", i, ":7400"); }
  void Join(size_t i) {
    stores.emplace(NameOf(i), std::make_unique<SimulatedStore>(clock));
    members.push_back({.address = NameOf(i)});
  }
  SimulatedStore& node(size_t i) { return *stores.at(NameOf(i)); }
  // Which nodes an extent belongs to, best first.
  std::vector<size_t> PlacesOf(const BlockKey& extent, size_t n) const {
    return Placement(members).Candidates(extent, n);
  }

  // Everything that can happen now.
  void Settle() {
    bool has_run = true;
    while (has_run) {
      has_run = false;
      client->RunReady();
      for (auto& [name, store] : stores) has_run = store->Run() || has_run;
      client->RunReady();
    }
  }
  void Pass(absl::Duration time, absl::Duration step = absl::Milliseconds(1)) {
    Settle();
    for (absl::Duration passed; passed < time; passed += step) {
      clock.Advance(step);
      Settle();
    }
  }
  // Until `is_over`, at most so long; how long it took.
  absl::Duration PassUntil(const std::function<bool()>& is_over, absl::Duration at_most = absl::Minutes(2)) {
    const absl::Time begun = clock.Now();
    Settle();
    while (!is_over() && clock.Now() - begun < at_most) Pass(absl::Milliseconds(1));
    EXPECT_TRUE(is_over()) << "not within " << at_most;
    return clock.Now() - begun;
  }

  absl::StatusOr<LookupResult> Lookup(const LookupQuery& query, absl::Duration timeout = absl::Seconds(1)) {
    return Await<LookupResult>([&](auto done) { client->Lookup(query, timeout, std::move(done)); });
  }
  absl::StatusOr<TouchResult> Touch(const TouchQuery& query) {
    return Await<TouchResult>([&](auto done) { client->Touch(query, absl::Seconds(1), std::move(done)); });
  }
  absl::StatusOr<DropResult> Drop(const std::vector<PlacedKey>& keys) {
    return Await<DropResult>([&](auto done) { client->Drop(keys, absl::Seconds(1), std::move(done)); });
  }
  absl::StatusOr<ListResult> List(const ListQuery& query) {
    return Await<ListResult>([&](auto done) { client->List(query, absl::Seconds(1), std::move(done)); });
  }

  struct Got {
    std::vector<absl::StatusOr<FetchedObject>> objects;
    absl::Status status;
    absl::Duration took;
  };
  // Takes what comes at once, or `hold` bytes later.
  Got Get(const std::vector<GetItem>& items, absl::Duration timeout = absl::Seconds(30),
          uint64_t window_bytes = uint64_t{8} << 20) {
    Got got;
    std::optional<absl::Status> done;
    std::shared_ptr<Client::GetCall> call;
    Client::GetEvents events;
    events.on_object = [&](size_t index, absl::StatusOr<FetchedObject> object) {
      EXPECT_EQ(index, got.objects.size()) << "in order, each once";
      if (object.ok()) call->Release(object->payload.size());
      got.objects.push_back(std::move(object));
    };
    events.on_done = [&](const absl::Status& status) { done = status; };
    call =
        client->Get({.fingerprint = FingerprintOf(1), .items = items, .timeout = timeout, .window_bytes = window_bytes},
                    std::move(events));
    got.took = PassUntil([&] { return done.has_value(); });
    got.status = done.value_or(absl::UnknownError("never ended"));
    EXPECT_EQ(got.objects.size(), items.size());
    return got;
  }

  struct Put {
    std::map<size_t, absl::StatusOr<PutOutcome>> outcomes;
    absl::Status status;
    absl::Duration took;
  };
  Put PutAll(const std::vector<PutItem>& items, absl::Duration timeout = absl::Seconds(20)) {
    Put put;
    std::optional<absl::Status> done;
    const auto call = client->Put(timeout, {.on_outcome =
                                                [&](size_t index, absl::StatusOr<PutOutcome> outcome) {
                                                  EXPECT_TRUE(put.outcomes.emplace(index, std::move(outcome)).second);
                                                },
                                            .on_done = [&](const absl::Status& status) { done = status; }});
    for (const PutItem& item : items) call->Offer(item);
    call->Finish();
    put.took = PassUntil([&] { return done.has_value(); });
    put.status = done.value_or(absl::UnknownError("never ended"));
    return put;
  }

  ManualClock clock;
  std::vector<Member> members;
  std::map<std::string, std::unique_ptr<SimulatedStore>> stores;
  std::unique_ptr<ClusterClient> client;

 private:
  template <typename Result>
  absl::StatusOr<Result> Await(const std::function<void(Client::Done<Result>)>& start) {
    std::optional<absl::StatusOr<Result>> answer;
    start([&](absl::StatusOr<Result> result) {
      EXPECT_FALSE(answer.has_value()) << "answered twice";
      answer = std::move(result);
    });
    PassUntil([&] { return answer.has_value(); });
    return answer.value_or(absl::UnknownError("never answered"));
  }
};

// A chain of blocks of a few bytes, placed as a worker does it.
struct ChainObjects {
  BlockKey root{};
  std::vector<BlockKey> keys;
  std::vector<Object> blocks;
  // Hangs off the last block or the root, `n_tail` tokens behind it; 0: at its end.
  Object CheckpointAt(size_t n_blocks, uint32_t n_tail) const {
    const uint64_t depth = n_blocks * kChainBlockTokens + n_tail;
    Object object = MakeObject(1, 0, static_cast<uint32_t>(depth), 200, ObjectKind::kCheckpoint);
    object.head.parent = n_blocks == 0 ? root : keys[n_blocks - 1];
    object.head.key.hash = object.head.parent;
    if (n_tail > 0) object.head.key.hash[31] ^= static_cast<uint8_t>(n_tail);
    object.head.extent = ExtentOf(root, keys, depth);
    return object;
  }
};

inline ChainObjects MakeChain(uint64_t seed, size_t n_blocks, size_t n_bytes = 64) {
  ChainObjects chain;
  chain.root = Hash(seed << 32);
  for (size_t i = 0; i < n_blocks; ++i) chain.keys.push_back(Hash((seed << 32) + i + 1));
  for (size_t i = 0; i < n_blocks; ++i) {
    Object object = MakeObject((seed << 32) + i + 1, 0, static_cast<uint32_t>((i + 1) * kChainBlockTokens), n_bytes);
    object.head.parent = i == 0 ? chain.root : chain.keys[i - 1];
    object.head.extent = ExtentOf(chain.root, chain.keys, object.head.depth_tokens);
    chain.blocks.push_back(std::move(object));
  }
  return chain;
}

}  // namespace longshelf::kvstore
