// The bridge against a real store node over gRPC: two bridges stand for two workers.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "bridge_harness.h"
#include "common/metrics.h"
#include "kvstore/server.h"
#include "worker/bridge/kv_bridge.h"
#include "worker/prefix_hasher.h"

namespace longshelf::worker {
namespace {

using engine::KvObject;
using engine::ParkedObject;

constexpr uint64_t kBlockBytes = 900'000;

uint64_t StateBytes(int64_t n_tokens) { return 1'500'000 + 4096 * static_cast<uint64_t>(n_tokens % 128); }

engine::KvBytes Payload(uint64_t n_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(n_bytes);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random());
  return std::make_shared<const std::vector<std::byte>>(std::move(out));
}

// One worker's bridge, turned by the test's own thread, with an engine that holds what it is told.
class Worker {
 public:
  Worker(const KvBridgeOptions& options, Clock& clock, const std::string& store_address)
      : clock_(clock),
        store_(std::move(*kvstore::MakeClient({.address = store_address}))),
        home_(MakeHomeStore(*store_, own_copies_)),
        bridge_(options, clock, *store_, {home_.get()}, copies_.ledger(), inbox_, worker_metrics_) {}

  struct Restored {
    std::string miss_reason;
    struct End {  // as PrefixFeed's, with the bytes
      int64_t n_tokens = 0;
      std::vector<std::byte> state;
      std::vector<std::byte> tail;
      std::string miss_reason;
    };
    std::vector<std::vector<std::byte>> blocks;
    End end;
  };
  Restored Restore(const std::vector<uint32_t>& tokens, const std::string& salt) {
    auto outcome = std::make_shared<std::optional<RestoreOutcome>>();
    RestoreRequest request;
    request.tokens = tokens;
    request.namespace_salt = salt;
    bridge_.Restore(std::move(request), [outcome](RestoreOutcome given) { *outcome = std::move(given); });
    TurnUntil([&] { return outcome->has_value(); });
    Restored restored{.miss_reason = (*outcome)->miss_reason, .blocks = {}, .end = {}};
    if ((*outcome)->feed == nullptr) return restored;
    (*outcome)->feed->Begin(0, 0);
    const auto read = [this](const engine::KvCopyPtr& copy) {
      return copy == nullptr ? std::vector<std::byte>() : *copies_.Read(copy);
    };
    TurnUntil([&] {
      engine::PrefixFeed::Arrived arrived = (*outcome)->feed->Take(2);
      for (const engine::KvCopyPtr& block : arrived.blocks) restored.blocks.push_back(read(block));
      if (!arrived.end.has_value()) return false;
      restored.end = {arrived.end->n_tokens, read(arrived.end->state), read(arrived.end->tail),
                      arrived.end->miss_reason};
      return true;
    });
    if (!restored.end.miss_reason.empty()) restored.miss_reason = restored.end.miss_reason;
    return restored;
  }

  absl::StatusOr<ParkOutcome> Park(const std::vector<uint32_t>& tokens, const std::string& salt) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<ParkOutcome>>>();
    ParkCommand command;
    command.tokens = tokens;
    command.namespace_id = "tenant";
    command.namespace_salt = salt;
    command.retain_until = absl::FromUnixSeconds(4'000'000'000);
    command.timeout = absl::Seconds(30);
    bridge_.Park(std::move(command), [answer](absl::StatusOr<ParkOutcome> outcome) { *answer = std::move(outcome); });
    TurnUntil([&] { return answer->has_value(); });
    return **answer;
  }

  void Hold(const std::vector<KvObject>& objects, const engine::PrefixKey& root) {
    engine_.Hold(objects);
    engine_.found = engine_.checkpoints.at(objects.back().key);
    engine_.found->root = root;
    for (const KvObject& object : objects) {
      if (object.kind == ParkedObject::Kind::kBlock) engine_.found->blocks.push_back(object.key);
    }
  }

 private:
  void TurnUntil(const std::function<bool()>& is_done) {
    const absl::Time deadline = clock_.Now() + absl::Seconds(60);
    while (!is_done()) {
      ASSERT_LT(clock_.Now(), deadline) << "no answer";
      bridge_.RunReady();
      engine_.Run();
      std::this_thread::yield();
    }
  }

  Clock& clock_;
  Metrics metrics_{"worker"};
  WorkerMetrics worker_metrics_{metrics_};
  Mailbox<engine::EngineMessage> inbox_{64};
  engine::KvCopies own_copies_;
  const engine::TestCopies copies_{std::make_shared<engine::KvCopyLedger>(),
                                   [this](uint16_t) -> engine::KvCopies& { return own_copies_; }};
  FakeEngine engine_{inbox_, copies_};
  const std::unique_ptr<kvstore::Client> store_;
  const std::unique_ptr<HomeStore> home_;
  KvBridge bridge_;
};

class BridgeAndStoreTest : public ::testing::Test {
 protected:
  void Start(uint64_t capacity) {
    options_.fingerprint.fill(3);
    options_.block_bytes = kBlockBytes;
    options_.state_bytes = StateBytes;
    options_.state_bytes_max = StateBytes(127);
    // The machine may be busy with other tests; time is not what is tested here.
    options_.lookup_timeout = absl::Seconds(10);
    options_.fetch_timeout = absl::Seconds(30);
    store_ = std::move(*kvstore::Store::Create({.capacity_bytes = capacity, .parked_share = 0.5}));
    server_ = std::move(*kvstore::Server::Start({}, *store_, clock_, metrics_));
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    a_ = std::make_unique<Worker>(options_, clock_, address_);
    b_ = std::make_unique<Worker>(options_, clock_, address_);
  }

  static std::vector<uint32_t> Tokens(size_t n) {
    std::vector<uint32_t> tokens(n);
    std::iota(tokens.begin(), tokens.end(), 7u);
    return tokens;
  }

  // All that resumes after `tokens`, with made-up contents.
  std::vector<KvObject> ObjectsOf(const std::vector<uint32_t>& tokens) {
    const KvPrefixHasher hasher(options_.fingerprint);
    const std::span<const uint32_t> all(tokens);
    std::vector<KvObject> out;
    engine::PrefixKey parent = hasher.Root(salt_);
    const size_t n_full = tokens.size() / 256 * 256;
    for (size_t end = 256; end <= n_full; end += 256) {
      const auto key = hasher.Next(parent, all.subspan(end - 256, 256));
      out.push_back({ParkedObject::Kind::kBlock, key, parent, static_cast<int64_t>(end), Payload(kBlockBytes, end)});
      parent = key;
    }
    const auto n = static_cast<int64_t>(tokens.size());
    engine::PrefixKey key = parent;
    if (n_full < tokens.size()) {
      key = hasher.Next(parent, all.subspan(n_full));
      out.push_back({ParkedObject::Kind::kTail, key, parent, n, Payload(kBlockBytes, tokens.size())});
    }
    out.push_back({ParkedObject::Kind::kCheckpoint, key, parent, n, Payload(StateBytes(n), tokens.size() + 1)});
    return out;
  }

  std::vector<KvObject> HoldAtA(const std::vector<uint32_t>& tokens) {
    const std::vector<KvObject> objects = ObjectsOf(tokens);
    a_->Hold(objects, KvPrefixHasher(options_.fingerprint).Root(salt_));
    return objects;
  }

  // Continues `tokens` by one, as the next turn of a session does.
  static std::vector<uint32_t> Next(std::vector<uint32_t> tokens) {
    tokens.push_back(1);
    return tokens;
  }

  SystemClock clock_;
  Metrics metrics_{"store"};
  KvBridgeOptions options_;
  std::string salt_ = std::string(32, 's');
  std::unique_ptr<kvstore::Store> store_;
  std::unique_ptr<kvstore::Server> server_;
  std::string address_;
  std::unique_ptr<Worker> a_;
  std::unique_ptr<Worker> b_;
};

TEST_F(BridgeAndStoreTest, WhatOneWorkerParksAnotherRestoresByteForByte) {
  Start(256 << 20);
  for (const size_t n :
       {size_t{1}, size_t{3}, size_t{127}, size_t{255}, size_t{256}, size_t{257}, size_t{1000}, size_t{5000}}) {
    const auto tokens = Tokens(n);
    const auto held = HoldAtA(tokens);
    const auto parked = a_->Park(tokens, salt_);
    ASSERT_TRUE(parked.ok()) << parked.status();
    EXPECT_EQ(parked->n_tokens, static_cast<int64_t>(n));
    EXPECT_EQ(parked->checkpoint_key, held.back().key);

    const Worker::Restored restored = b_->Restore(Next(tokens), salt_);
    ASSERT_EQ(restored.end.n_tokens, static_cast<int64_t>(n)) << restored.miss_reason;
    ASSERT_EQ(restored.blocks.size(), n / 256);
    for (size_t i = 0; i < restored.blocks.size(); ++i) {
      ASSERT_TRUE(restored.blocks[i] == *held[i].bytes) << n << " block " << i;
    }
    if (n % 256 != 0) {
      EXPECT_TRUE(restored.end.tail == *held[held.size() - 2].bytes) << n;
    }
    EXPECT_TRUE(restored.end.state == *held.back().bytes) << n;
    EXPECT_EQ(b_->Restore(Next(tokens), std::string(32, 't')).end.n_tokens, 0) << "another tenant";
  }
}

TEST_F(BridgeAndStoreTest, ABitFlippedInTheStoreIsNeverRestoredWhicheverObjectItHits) {
  Start(256 << 20);
  const auto tokens = Tokens(600);
  const auto held = HoldAtA(tokens);
  using Kind = ParkedObject::Kind;
  for (const KvObject& victim : held) {
    ASSERT_TRUE(a_->Park(tokens, salt_).ok());
    const auto kind = victim.kind == Kind::kBlock  ? kvstore::ObjectKind::kBlock
                      : victim.kind == Kind::kTail ? kvstore::ObjectKind::kTail
                                                   : kvstore::ObjectKind::kCheckpoint;
    ASSERT_TRUE(store_->FlipBitForTest({victim.key, kind}, victim.bytes->size() * 4));
    const Worker::Restored broken = b_->Restore(Next(tokens), salt_);
    EXPECT_EQ(broken.end.n_tokens, 0);
    EXPECT_EQ(broken.miss_reason, "digest_mismatch");
  }
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_quarantined, held.size());
  ASSERT_TRUE(a_->Park(tokens, salt_).ok()) << "and all of it may be stored again";
  EXPECT_EQ(b_->Restore(Next(tokens), salt_).end.n_tokens, 600);
}

TEST_F(BridgeAndStoreTest, AParkThatDoesNotFitIsRefusedAndSoonLeavesRoomForOneThatDoes) {
  Start(16 << 20);
  const auto tokens = Tokens(5000);
  HoldAtA(tokens);
  EXPECT_EQ(a_->Park(tokens, salt_).status().code(), absl::StatusCode::kResourceExhausted);
  // It had half a minute, and clocks may differ by one.
  EXPECT_EQ(store_->Stats(clock_.WallNow() + absl::Seconds(91)).parked_bytes, 0u);

  const auto small = Tokens(600);
  HoldAtA(small);
  EXPECT_TRUE(a_->Park(small, salt_).ok());
  HoldAtA(tokens);
  EXPECT_FALSE(a_->Park(tokens, salt_).ok());
  EXPECT_EQ(b_->Restore(Next(small), salt_).end.n_tokens, 600) << "what was parked before stays parked";
}

TEST_F(BridgeAndStoreTest, AStoreThatDiesIsAMissAndItsSuccessorIsUsed) {
  Start(64 << 20);
  const auto tokens = Tokens(300);
  HoldAtA(tokens);
  ASSERT_TRUE(a_->Park(tokens, salt_).ok());
  server_.reset();
  const Worker::Restored dead = b_->Restore(Next(tokens), salt_);
  EXPECT_EQ(dead.end.n_tokens, 0);
  EXPECT_FALSE(dead.miss_reason.empty());
  EXPECT_FALSE(a_->Park(tokens, salt_).ok());

  server_ = std::move(*kvstore::Server::Start({.listen = address_}, *store_, clock_, metrics_));
  const absl::Time deadline = clock_.Now() + absl::Seconds(60);
  bool restored = false;
  while (!restored && clock_.Now() < deadline) {
    restored = b_->Restore(Next(tokens), salt_).end.n_tokens > 0;
    std::this_thread::yield();
  }
  EXPECT_TRUE(restored);
}

}  // namespace
}  // namespace longshelf::worker
