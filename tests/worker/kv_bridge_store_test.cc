// The bridge against a real store node over gRPC: two bridges stand for two workers.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/metrics.h"
#include "kvstore/server.h"
#include "worker/kv_bridge.h"
#include "worker/prefix_hasher.h"

namespace longshelf::worker {
namespace {

using engine::ParkedObject;

constexpr uint64_t kBlockBytes = 900'000;
constexpr auto kPatience = std::chrono::seconds(60);

uint64_t StateBytes(int64_t n_tokens) { return 1'500'000 + 4096 * static_cast<uint64_t>(n_tokens % 128); }

std::vector<std::byte> Payload(uint64_t n_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(n_bytes);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

// One worker's bridge with an engine that holds nothing and exports what it is told to.
class Worker {
 public:
  Worker(const KvBridgeOptions& options, Clock& clock, const std::string& store_address)
      : store_(std::move(*kvstore::MakeClient({.address = store_address}))),
        bridge_(std::make_unique<KvBridge>(options, clock, *store_, inbox_, worker_metrics_)),
        engine_([this] { EngineLoop(); }) {}
  ~Worker() {
    inbox_.Close();
    engine_.join();
    bridge_.reset();
  }

  RestoreOutcome Restore(const std::vector<uint32_t>& tokens, const std::string& salt) {
    auto answer = std::make_shared<Mailbox<RestoreOutcome>>(1);
    RestoreRequest request;
    request.tokens = tokens;
    request.namespace_salt = salt;
    bridge_->Restore(std::move(request), [answer](RestoreOutcome outcome) { answer->Post(std::move(outcome)); });
    auto got = answer->Drain(kPatience);
    EXPECT_EQ(got.size(), 1);
    return got.empty() ? RestoreOutcome{} : std::move(got.front());
  }

  absl::StatusOr<ParkOutcome> Park(const std::vector<uint32_t>& tokens, const std::string& salt) {
    auto answer = std::make_shared<Mailbox<absl::StatusOr<ParkOutcome>>>(1);
    ParkCommand command;
    command.tokens = tokens;
    command.namespace_id = "tenant";
    command.namespace_salt = salt;
    command.retain_until = absl::FromUnixSeconds(4'000'000'000);
    command.timeout = absl::Seconds(30);
    bridge_->Park(std::move(command),
                  [answer](absl::StatusOr<ParkOutcome> outcome) { answer->Post(std::move(outcome)); });
    auto got = answer->Drain(kPatience);
    EXPECT_EQ(got.size(), 1);
    return got.empty() ? absl::StatusOr<ParkOutcome>(absl::InternalError("no answer")) : std::move(got.front());
  }

  std::vector<ParkedObject> held;  // set before Park

 private:
  void EngineLoop() {
    while (true) {
      auto messages = inbox_.Drain(std::chrono::minutes(1));
      if (messages.empty() && inbox_.closed()) return;
      for (auto& message : messages) {
        if (auto* probe = std::get_if<engine::ProbePrefix>(&message)) probe->reply(0);
        if (auto* wanted = std::get_if<engine::ExportPrefix>(&message)) wanted->reply(held);
      }
    }
  }

  Metrics metrics_{"worker"};
  WorkerMetrics worker_metrics_{metrics_};
  Mailbox<engine::EngineMessage> inbox_{16};
  std::unique_ptr<kvstore::Client> store_;
  std::unique_ptr<KvBridge> bridge_;
  std::thread engine_;
};

class BridgeAndStoreTest : public ::testing::Test {
 protected:
  void Start(uint64_t capacity) {
    options_.fingerprint.fill(3);
    options_.block_bytes = kBlockBytes;
    options_.state_bytes = StateBytes;
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
  std::vector<ParkedObject> ObjectsOf(const std::vector<uint32_t>& tokens) {
    const KvPrefixHasher hasher(options_.fingerprint);
    const std::span<const uint32_t> all(tokens);
    std::vector<ParkedObject> out;
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
    a_->held = ObjectsOf(tokens);
    const auto parked = a_->Park(tokens, salt_);
    ASSERT_TRUE(parked.ok()) << parked.status();
    EXPECT_EQ(parked->n_tokens, static_cast<int64_t>(n));
    EXPECT_EQ(parked->checkpoint_key, a_->held.back().key);

    const RestoreOutcome outcome = b_->Restore(Next(tokens), salt_);
    ASSERT_NE(outcome.restored, nullptr) << n << " " << outcome.miss_reason;
    ASSERT_EQ(outcome.restored->n_tokens, static_cast<int64_t>(n));
    ASSERT_EQ(outcome.restored->blocks.size(), a_->held.size() - 1);
    for (size_t i = 0; i < outcome.restored->blocks.size(); ++i) {
      ASSERT_TRUE(outcome.restored->blocks[i] == a_->held[i].bytes) << n << " block " << i;
    }
    EXPECT_TRUE(outcome.restored->state == a_->held.back().bytes) << n;
    EXPECT_EQ(b_->Restore(Next(tokens), std::string(32, 't')).restored, nullptr) << "another tenant";
  }
}

TEST_F(BridgeAndStoreTest, ABitFlippedInTheStoreIsNeverRestoredWhicheverObjectItHits) {
  Start(256 << 20);
  const auto tokens = Tokens(600);
  a_->held = ObjectsOf(tokens);
  using Kind = ParkedObject::Kind;
  for (const ParkedObject& victim : a_->held) {
    ASSERT_TRUE(a_->Park(tokens, salt_).ok());
    const auto kind = victim.kind == Kind::kBlock  ? kvstore::ObjectKind::kBlock
                      : victim.kind == Kind::kTail ? kvstore::ObjectKind::kTail
                                                   : kvstore::ObjectKind::kCheckpoint;
    ASSERT_TRUE(store_->FlipBitForTest({victim.key, kind}, victim.bytes.size() * 4));
    const RestoreOutcome broken = b_->Restore(Next(tokens), salt_);
    EXPECT_EQ(broken.restored, nullptr);
    EXPECT_EQ(broken.miss_reason, "digest_mismatch");
  }
  EXPECT_EQ(store_->Stats(clock_.WallNow()).n_quarantined, a_->held.size());
  ASSERT_TRUE(a_->Park(tokens, salt_).ok()) << "and all of it may be stored again";
  EXPECT_NE(b_->Restore(Next(tokens), salt_).restored, nullptr);
}

TEST_F(BridgeAndStoreTest, AParkThatDoesNotFitIsRefusedAndLeavesRoomForOneThatDoes) {
  Start(16 << 20);
  const auto tokens = Tokens(5000);
  a_->held = ObjectsOf(tokens);
  EXPECT_EQ(a_->Park(tokens, salt_).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->Stats(clock_.WallNow()).parked_bytes, 0u);

  const auto small = Tokens(600);
  a_->held = ObjectsOf(small);
  EXPECT_TRUE(a_->Park(small, salt_).ok());
  a_->held = ObjectsOf(tokens);
  EXPECT_FALSE(a_->Park(tokens, salt_).ok());
  EXPECT_NE(b_->Restore(Next(small), salt_).restored, nullptr) << "what was parked before stays parked";
}

TEST_F(BridgeAndStoreTest, AStoreThatDiesIsAMissAndItsSuccessorIsUsed) {
  Start(64 << 20);
  const auto tokens = Tokens(300);
  a_->held = ObjectsOf(tokens);
  ASSERT_TRUE(a_->Park(tokens, salt_).ok());
  server_.reset();
  const RestoreOutcome dead = b_->Restore(Next(tokens), salt_);
  EXPECT_EQ(dead.restored, nullptr);
  EXPECT_FALSE(dead.miss_reason.empty());
  EXPECT_FALSE(a_->Park(tokens, salt_).ok());

  server_ = std::move(*kvstore::Server::Start({.listen = address_}, *store_, clock_, metrics_));
  const absl::Time deadline = clock_.Now() + absl::Seconds(60);
  bool restored = false;
  while (!restored && clock_.Now() < deadline) {
    restored = b_->Restore(Next(tokens), salt_).restored != nullptr;
    std::this_thread::yield();
  }
  EXPECT_TRUE(restored);
}

}  // namespace
}  // namespace longshelf::worker
