#include "worker/kv_bridge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <thread>

#include "common/metrics.h"
#include "fake_store.h"
#include "worker/prefix_hasher.h"

namespace longshelf::worker {
namespace {

using engine::ParkedObject;
using kvstore::ObjectKey;
using kvstore::ObjectKind;
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 640;
constexpr auto kPatience = std::chrono::seconds(20);

uint64_t StateBytes(int64_t n_tokens) { return 100 + static_cast<uint64_t>(n_tokens % 128); }

// Answers the bridge as an engine would that holds the first n_local tokens of everything.
class FakeEngine {
 public:
  explicit FakeEngine(Mailbox<engine::EngineMessage>& inbox) : inbox_(inbox), thread_([this] { Loop(); }) {}
  ~FakeEngine() {
    inbox_.Close();
    thread_.join();
  }
  std::atomic<int64_t> n_local{0};
  std::function<absl::StatusOr<std::vector<ParkedObject>>(const std::vector<uint32_t>&)> exported;

 private:
  void Loop() {
    while (true) {
      auto messages = inbox_.Drain(std::chrono::minutes(1));
      if (messages.empty() && inbox_.closed()) return;
      for (auto& message : messages) {
        if (auto* probe = std::get_if<engine::ProbePrefix>(&message)) {
          probe->reply(std::min<int64_t>(n_local.load(), static_cast<int64_t>(probe->tokens.size()) - 1));
        } else if (auto* wanted = std::get_if<engine::ExportPrefix>(&message)) {
          wanted->reply(exported(wanted->tokens));
        }
      }
    }
  }
  Mailbox<engine::EngineMessage>& inbox_;
  std::thread thread_;
};

class KvBridgeTest : public ::testing::Test {
 protected:
  KvBridgeTest() {
    options_.fingerprint.fill(3);
    options_.block_bytes = kBlockBytes;
    options_.state_bytes = StateBytes;
    options_.n_restore_threads = 1;
  }

  void Start() {
    engine_ = std::make_unique<FakeEngine>(inbox_);
    bridge_ = std::make_unique<KvBridge>(options_, clock_, store_, inbox_, worker_metrics_);
  }

  static std::vector<uint32_t> Tokens(size_t n, uint32_t seed = 0) {
    std::vector<uint32_t> tokens(n);
    std::iota(tokens.begin(), tokens.end(), seed);
    return tokens;
  }

  static std::vector<std::byte> Payload(uint64_t n_bytes, uint64_t seed) {
    std::vector<std::byte> out(n_bytes);
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>((i * 31 + seed * 7) & 255);
    return out;
  }

  // What a worker that computed these tokens offers: all full blocks, and state (and tail) at each of `checkpoints`.
  std::vector<ParkedObject> Objects(const std::vector<uint32_t>& tokens, const std::vector<int64_t>& checkpoints) {
    const KvPrefixHasher hasher(options_.fingerprint);
    std::vector<ParkedObject> out;
    std::vector<engine::PrefixKey> keys = {hasher.Root(salt_)};
    const std::span<const uint32_t> all(tokens);
    for (size_t end = 256; end <= tokens.size(); end += 256) {
      const auto key = hasher.Next(keys.back(), all.subspan(end - 256, 256));
      out.push_back(
          {ParkedObject::Kind::kBlock, key, keys.back(), static_cast<int64_t>(end), Payload(kBlockBytes, end)});
      keys.push_back(key);
    }
    for (const int64_t n : checkpoints) {
      const auto parent = keys[static_cast<size_t>(n / 256)];
      const auto n_tail = static_cast<size_t>(n % 256);
      engine::PrefixKey key = parent;
      if (n_tail != 0) {
        key = hasher.Next(parent, all.subspan(static_cast<size_t>(n) - n_tail, n_tail));
        out.push_back({ParkedObject::Kind::kTail, key, parent, n, Payload(kBlockBytes, 1000 + n_tail)});
      }
      out.push_back(
          {ParkedObject::Kind::kCheckpoint, key, parent, n, Payload(StateBytes(n), static_cast<uint64_t>(n))});
    }
    return out;
  }

  // Waits until everything offered was put.
  void OffloadAll(std::vector<ParkedObject> objects) {
    bridge_->Offload("tenant", std::move(objects));
    bridge_.reset();
    bridge_ = std::make_unique<KvBridge>(options_, clock_, store_, inbox_, worker_metrics_);
  }

  RestoreOutcome Restore(const std::vector<uint32_t>& tokens) {
    auto answer = std::make_shared<Mailbox<RestoreOutcome>>(1);
    RestoreRequest request;
    request.tokens = tokens;
    request.namespace_salt = salt_;
    bridge_->Restore(std::move(request), [answer](RestoreOutcome outcome) { answer->Post(std::move(outcome)); });
    auto got = answer->Drain(kPatience);
    EXPECT_EQ(got.size(), 1) << "no answer";
    return got.empty() ? RestoreOutcome{} : std::move(got.front());
  }

  absl::StatusOr<ParkOutcome> Park(const std::vector<uint32_t>& tokens) {
    auto answer = std::make_shared<Mailbox<absl::StatusOr<ParkOutcome>>>(1);
    ParkCommand command;
    command.tokens = tokens;
    command.namespace_id = "tenant";
    command.namespace_salt = salt_;
    command.retain_until = absl::FromUnixSeconds(4'000'000'000);
    bridge_->Park(std::move(command),
                  [answer](absl::StatusOr<ParkOutcome> outcome) { answer->Post(std::move(outcome)); });
    auto got = answer->Drain(kPatience);
    EXPECT_EQ(got.size(), 1) << "no answer";
    return got.empty() ? absl::StatusOr<ParkOutcome>(absl::InternalError("no answer")) : std::move(got.front());
  }

  ObjectKey KeyOf(const std::vector<uint32_t>& tokens, int64_t n, ObjectKind kind) {
    for (const ParkedObject& object : Objects(tokens, {n})) {
      if (object.n_tokens != n) continue;
      if ((kind == ObjectKind::kBlock) != (object.kind == ParkedObject::Kind::kBlock)) continue;
      return {object.key, kind};
    }
    ADD_FAILURE() << "no object of " << n << " tokens";
    return {};
  }

  void TearDown() override {
    engine_.reset();
    bridge_.reset();
  }

  SystemClock clock_;
  Metrics metrics_{"bridge_test"};
  WorkerMetrics worker_metrics_{metrics_};
  Mailbox<engine::EngineMessage> inbox_{16};
  FakeStore store_;
  KvBridgeOptions options_;
  std::string salt_ = std::string(32, 's');
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<KvBridge> bridge_;
};

TEST_F(KvBridgeTest, RestoresTheDeepestCheckpointOfTheSameTokens) {
  Start();
  const auto tokens = Tokens(700);
  OffloadAll(Objects(tokens, {256, 600, 650}));
  const RestoreOutcome outcome = Restore(tokens);
  ASSERT_NE(outcome.restored, nullptr) << outcome.miss_reason;
  EXPECT_EQ(outcome.restored->n_tokens, 650);
  EXPECT_EQ(outcome.restored->first_block, 0);
  ASSERT_EQ(outcome.restored->blocks.size(), 3) << "two full blocks and the tail";
  EXPECT_EQ(outcome.restored->blocks[0], Payload(kBlockBytes, 256));
  EXPECT_EQ(outcome.restored->blocks[1], Payload(kBlockBytes, 512));
  EXPECT_EQ(outcome.restored->blocks[2], Payload(kBlockBytes, 1000 + 650 % 256));
  EXPECT_EQ(outcome.restored->state, Payload(StateBytes(650), 650));
  EXPECT_NE(outcome.lease, nullptr);
}

TEST_F(KvBridgeTest, RestoresShortAndAlignedPrefixes) {
  Start();
  for (const int64_t n : {1, 3, 255, 256, 257, 512}) {
    const auto tokens = Tokens(static_cast<size_t>(n) + 1, static_cast<uint32_t>(100'000 * n));
    OffloadAll(Objects(tokens, {n}));
    const RestoreOutcome outcome = Restore(tokens);
    ASSERT_NE(outcome.restored, nullptr) << n << " " << outcome.miss_reason;
    EXPECT_EQ(outcome.restored->n_tokens, n);
    EXPECT_EQ(outcome.restored->blocks.size(), static_cast<size_t>((n + 255) / 256));
    EXPECT_EQ(outcome.miss_reason, "");
  }
}

TEST_F(KvBridgeTest, NeverRestoresTheLastTokenWhoseLogitsAreWanted) {
  Start();
  const auto tokens = Tokens(300);
  OffloadAll(Objects(tokens, {256, 300}));
  const RestoreOutcome outcome = Restore(tokens);
  ASSERT_NE(outcome.restored, nullptr);
  EXPECT_EQ(outcome.restored->n_tokens, 256);
}

TEST_F(KvBridgeTest, FetchesOnlyTheBlocksTheEngineDoesNotHold) {
  Start();
  engine_->n_local = 512;
  const auto tokens = Tokens(1000);
  OffloadAll(Objects(tokens, {768}));
  const RestoreOutcome outcome = Restore(tokens);
  ASSERT_NE(outcome.restored, nullptr);
  EXPECT_EQ(outcome.restored->first_block, 2);
  ASSERT_EQ(outcome.restored->blocks.size(), 1);
  EXPECT_EQ(outcome.restored->blocks[0], Payload(kBlockBytes, 768));
}

TEST_F(KvBridgeTest, LeavesItToTheEngineWhenThatHoldsMore) {
  Start();
  engine_->n_local = 600;
  const auto tokens = Tokens(700);
  OffloadAll(Objects(tokens, {512}));
  EXPECT_EQ(Restore(tokens).restored, nullptr);
  EXPECT_EQ(store_.n_gets, 0);
}

TEST_F(KvBridgeTest, DoesNotUseACheckpointOfOtherTokensOrOfAnotherNamespace) {
  Start();
  auto tokens = Tokens(400);
  OffloadAll(Objects(tokens, {300}));
  tokens[299] = 7;
  EXPECT_EQ(Restore(tokens).restored, nullptr);
  tokens = Tokens(400);
  salt_ = std::string(32, 'x');
  EXPECT_EQ(Restore(tokens).restored, nullptr);
  salt_ = std::string(32, 's');
  EXPECT_NE(Restore(tokens).restored, nullptr);
}

TEST_F(KvBridgeTest, RefusesAnyDamagedMissingOrMisSizedComponentAndFallsBack) {
  struct Case {
    std::string reason;
    int64_t n;
    ObjectKind kind;
    std::function<void(FakeStore&, const ObjectKey&)> spoil;
  };
  const auto flip = [](FakeStore& s, const ObjectKey& k) { s.objects.at(k).payload[17] ^= std::byte{4}; };
  const auto drop_late = [](FakeStore& s, const ObjectKey& k) { s.before_get = [&s, k] { s.objects.erase(k); }; };
  const auto drop = [](FakeStore& s, const ObjectKey& k) { s.objects.erase(k); };
  const auto grow = [](FakeStore& s, const ObjectKey& k) {
    auto& stored = s.objects.at(k);
    stored.payload.push_back(std::byte{0});
    stored.head.digest = kvstore::DigestOf(stored.payload);
  };
  const std::vector<Case> cases = {
      {"digest_mismatch", 600, ObjectKind::kCheckpoint, flip},
      {"digest_mismatch", 600, ObjectKind::kTail, flip},
      {"digest_mismatch", 512, ObjectKind::kBlock, flip},
      {"missing", 600, ObjectKind::kCheckpoint, drop_late},
      {"missing", 600, ObjectKind::kTail, drop_late},
      {"missing", 512, ObjectKind::kBlock, drop_late},
      {"no_tail", 600, ObjectKind::kTail, drop},
      {"bad_size", 600, ObjectKind::kCheckpoint, grow},
      {"bad_size", 600, ObjectKind::kTail, grow},
      {"bad_size", 512, ObjectKind::kBlock, grow},
  };
  Start();
  const auto tokens = Tokens(700);
  for (const Case& c : cases) {
    store_.objects.clear();
    store_.before_get = nullptr;
    OffloadAll(Objects(tokens, {256, 600}));
    ASSERT_EQ(store_.objects.size(), 5);
    c.spoil(store_, KeyOf(tokens, c.n, c.kind));
    const RestoreOutcome outcome = Restore(tokens);
    ASSERT_NE(outcome.restored, nullptr) << c.reason;
    EXPECT_EQ(outcome.restored->n_tokens, 256) << "the shallower checkpoint is whole";
    EXPECT_EQ(outcome.restored->blocks.size(), 1);
    EXPECT_EQ(outcome.restored->state, Payload(StateBytes(256), 256));
    if (c.reason != "no_tail" && !(c.reason == "bad_size" && c.kind != ObjectKind::kBlock)) {
      EXPECT_EQ(outcome.miss_reason, c.reason);
    }
    EXPECT_THAT(metrics_.Serialize(),
                HasSubstr("longshelf_worker_restore_failures_total{reason=\"" + c.reason + "\"} "));
    EXPECT_THAT(metrics_.Serialize(),
                Not(HasSubstr("longshelf_worker_restore_failures_total{reason=\"" + c.reason + "\"} 0\n")));
  }
}

TEST_F(KvBridgeTest, KeepsFetchedBytesBelowItsBudget) {
  options_.restore_memory_bytes = 3 * kBlockBytes;
  Start();
  const auto tokens = Tokens(700);
  OffloadAll(Objects(tokens, {256, 600}));
  RestoreOutcome first = Restore(tokens);
  ASSERT_NE(first.restored, nullptr);
  EXPECT_EQ(first.restored->n_tokens, 256) << "the deeper one does not fit the budget";
  EXPECT_EQ(first.miss_reason, "restore_memory");
  EXPECT_EQ(Restore(tokens).restored, nullptr) << "the first one is still charged";
  first.lease.reset();
  EXPECT_NE(Restore(tokens).restored, nullptr);
}

TEST_F(KvBridgeTest, FetchesWhatFitsOfAPrefixThatIsLargerThanItsBudget) {
  options_.restore_memory_bytes = 3 * kBlockBytes;
  Start();
  const auto tokens = Tokens(3000);
  OffloadAll(Objects(tokens, {256, 1100, 1400, 1700, 2000, 2300, 2600, 2900}));
  const RestoreOutcome outcome = Restore(tokens);
  ASSERT_NE(outcome.restored, nullptr) << "the deepest seven do not fit";
  EXPECT_EQ(outcome.restored->n_tokens, 256);
}

TEST_F(KvBridgeTest, GoesOnWithoutAStoreThatIsDownAndSoonStopsAsking) {
  Start();
  store_.down = absl::UnavailableError("down");
  for (int i = 0; i < 20; ++i) {
    const RestoreOutcome outcome = Restore(Tokens(300));
    EXPECT_EQ(outcome.restored, nullptr);
    EXPECT_EQ(outcome.miss_reason, "store_unreachable");
  }
  EXPECT_LE(store_.n_lookups, 4);
  EXPECT_FALSE(bridge_->store_up());
  EXPECT_EQ(Park(Tokens(300)).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(KvBridgeTest, StopsFetchingForASequenceThatWasCancelled) {
  Start();
  const auto tokens = Tokens(700);
  OffloadAll(Objects(tokens, {600}));
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  store_.before_get = [cancelled] { cancelled->store(true); };
  auto answer = std::make_shared<Mailbox<RestoreOutcome>>(1);
  RestoreRequest request;
  request.tokens = tokens;
  request.namespace_salt = salt_;
  request.cancelled = cancelled;
  bridge_->Restore(std::move(request), [answer](RestoreOutcome outcome) { answer->Post(std::move(outcome)); });
  const auto got = answer->Drain(kPatience);
  ASSERT_EQ(got.size(), 1);
  EXPECT_EQ(got.front().restored, nullptr);
  EXPECT_EQ(store_.n_gets, 1);
}

TEST_F(KvBridgeTest, DropsAndCountsWhatTheOffloadQueueCannotHold) {
  options_.offload_memory_bytes = 2 * kBlockBytes;
  Start();
  bridge_->Offload("tenant", Objects(Tokens(2000), {}));  // seven blocks at once
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("longshelf_worker_offload_dropped_total 7"));
  OffloadAll(Objects(Tokens(300), {}));
  EXPECT_EQ(store_.objects.size(), 1);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("longshelf_worker_offload_queue_bytes 0"));
}

TEST_F(KvBridgeTest, ParksEverythingWithTheRetentionAndAnswersWithTheCheckpoint) {
  Start();
  const auto tokens = Tokens(600);
  engine_->exported = [&](const std::vector<uint32_t>& wanted) {
    EXPECT_EQ(wanted, tokens);
    return Objects(tokens, {600});
  };
  const auto outcome = Park(tokens);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->n_tokens, 600);
  EXPECT_EQ(outcome->n_objects, 4);
  EXPECT_EQ(outcome->n_bytes, 3 * kBlockBytes + StateBytes(600));
  EXPECT_EQ(outcome->checkpoint_key, KeyOf(tokens, 600, ObjectKind::kCheckpoint).hash);
  ASSERT_EQ(store_.objects.size(), 4);
  for (const auto& [key, stored] : store_.objects) {
    EXPECT_EQ(stored.head.object_class, kvstore::ObjectClass::kParked);
    EXPECT_EQ(stored.head.retain_until, absl::FromUnixSeconds(4'000'000'000));
    EXPECT_EQ(stored.head.namespace_id, "tenant");
  }
  EXPECT_NE(Restore(Tokens(601)).restored, nullptr);
}

TEST_F(KvBridgeTest, ParkFailsUnlessTheStoreAcknowledgedEveryObject) {
  Start();
  const auto tokens = Tokens(600);
  engine_->exported = [&](const std::vector<uint32_t>&) { return Objects(tokens, {600}); };
  store_.refuse = [](const kvstore::PutItem& item) {
    return item.head.key.kind == ObjectKind::kTail ? absl::ResourceExhaustedError("parked share is full")
                                                   : absl::OkStatus();
  };
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kResourceExhausted);
  // Busy for a while is not a refusal.
  int n_busy = 2;
  store_.refuse = [&n_busy](const kvstore::PutItem& item) {
    return item.head.key.kind == ObjectKind::kTail && n_busy-- > 0 ? absl::UnavailableError("busy") : absl::OkStatus();
  };
  store_.objects.clear();
  const auto outcome = Park(tokens);
  EXPECT_EQ(outcome.status().code(), absl::StatusCode::kUnavailable) << "twice without any progress";
  EXPECT_TRUE(Park(tokens).ok());
  engine_->exported = [](const std::vector<uint32_t>&) { return absl::NotFoundError("not held"); };
  EXPECT_EQ(Park(tokens).status().code(), absl::StatusCode::kNotFound);
}

TEST(Breaker, OpensAfterFailuresInARowPausesLongerEachTimeAndClosesOnSuccess) {
  Breaker breaker;
  absl::Time t = absl::UnixEpoch();
  EXPECT_TRUE(breaker.MayCall(t));
  breaker.Failed(t);
  EXPECT_TRUE(breaker.MayCall(t));
  breaker.Failed(t);
  EXPECT_FALSE(breaker.MayCall(t));
  EXPECT_TRUE(breaker.is_open(t));
  t += absl::Milliseconds(500);
  EXPECT_TRUE(breaker.MayCall(t));
  EXPECT_FALSE(breaker.MayCall(t)) << "one at a time tries";
  breaker.Failed(t);
  EXPECT_FALSE(breaker.MayCall(t + absl::Milliseconds(900)));
  EXPECT_TRUE(breaker.MayCall(t + absl::Milliseconds(1000)));
  breaker.Succeeded();
  EXPECT_TRUE(breaker.MayCall(t));
  EXPECT_FALSE(breaker.is_open(t));
}

}  // namespace
}  // namespace longshelf::worker
