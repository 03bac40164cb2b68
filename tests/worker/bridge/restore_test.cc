// The way in: lookups and restores, against a store that keeps all its promises but can be slow, down or damaged.

#include <algorithm>
#include <functional>

#include "bridge_harness.h"

namespace longshelf::worker {
namespace {

using kvstore::ObjectKey;
using kvstore::ObjectKind;

class RestoreTest : public BridgeHarness {
 protected:
  // What computing costs: 1 ms a token.
  void SetPrefillSpeed() { bridge_->SetPrefillSpeed({.seconds_per_token = 0.001, .per_position = 0.0}); }

  // One restore of enough bytes to tell.
  void LearnFetchSpeed() {
    const auto tokens = Tokens(256 * 40 + 1, 900'000);
    Put(Objects(tokens, {256 * 40}));
    EXPECT_EQ(Restore(tokens)->end->n_tokens, 256 * 40);
  }

  // Of so many unknown prompts of 50 tokens.
  absl::Duration LongestWaitOfABurst(uint32_t n) {
    const absl::Time begun = clock_.Now();
    std::vector<std::shared_ptr<Request>> requests;
    for (uint32_t i = 0; i < n; ++i) requests.push_back(Ask(Tokens(50, i * 1000)));
    const auto is_answered = [](const auto& request) { return request->outcome.has_value(); };
    while (!std::all_of(requests.begin(), requests.end(), is_answered) && clock_.Now() < begun + absl::Hours(1)) {
      Pass(absl::Milliseconds(10));
    }
    return clock_.Now() - begun;
  }
};

TEST_F(RestoreTest, BringsTheDeepestCheckpointOfTheSameTokens) {
  Start();
  const auto tokens = Tokens(700);
  Put(Objects(tokens, {256, 600, 650}));
  const auto request = Restore(tokens);
  ASSERT_TRUE(request->end.has_value()) << request->outcome->miss_reason;
  EXPECT_EQ(request->outcome->feed->n_tokens(), 650);
  EXPECT_EQ(request->outcome->n_shared, 512);
  EXPECT_EQ(request->end->n_tokens, 650);
  ASSERT_EQ(request->blocks.size(), 2U);
  EXPECT_EQ(request->blocks[0], Filled(kBlockBytes, 256));
  EXPECT_EQ(request->blocks[1], Filled(kBlockBytes, 512));
  EXPECT_EQ(request->end->tail, Filled(kBlockBytes, 1000 + 650 % 256));
  EXPECT_EQ(request->end->state, Filled(StateBytes(650), 650));
  EXPECT_EQ(store_.n_gets, 1);
}

TEST_F(RestoreTest, ShortAndAlignedPrefixes) {
  Start();
  for (const int64_t n : {1, 3, 255, 256, 257, 512}) {
    const auto tokens = Tokens(static_cast<size_t>(n) + 1, static_cast<uint32_t>(100'000 * n));
    Put(Objects(tokens, {n}));
    const auto request = Restore(tokens);
    ASSERT_TRUE(request->end.has_value()) << n << " " << request->outcome->miss_reason;
    EXPECT_EQ(request->end->n_tokens, n);
    EXPECT_EQ(request->blocks.size(), static_cast<size_t>(n / 256));
    EXPECT_EQ(request->end->tail.empty(), n % 256 == 0);
    EXPECT_EQ(request->end->miss_reason, "");
  }
}

TEST_F(RestoreTest, NeverTheLastTokenWhoseLogitsAreWanted) {
  Start();
  const auto tokens = Tokens(300);
  Put(Objects(tokens, {256, 300}));
  EXPECT_EQ(Restore(tokens)->end->n_tokens, 256);
}

TEST_F(RestoreTest, OnlyTheBlocksTheEngineDoesNotHold) {
  Start();
  const auto tokens = Tokens(1000);
  Put(Objects(tokens, {768}));
  const auto request = Restore(tokens, /*n_blocks_held=*/2);
  EXPECT_EQ(request->end->n_tokens, 768);
  ASSERT_EQ(request->blocks.size(), 1U);
  EXPECT_EQ(request->blocks[0], Filled(kBlockBytes, 768));
  // All of them, but no state behind them, or it would not have begun.
  for (const int64_t n_held : {3, 4}) {
    const auto state_only = Restore(tokens, n_held);
    EXPECT_EQ(state_only->end->n_tokens, 768);
    EXPECT_EQ(state_only->end->state, Filled(StateBytes(768), 768));
    EXPECT_TRUE(state_only->blocks.empty());
  }
  EXPECT_EQ(store_.n_gets, 3);
}

TEST_F(RestoreTest, AStateBehindBlocksThatTheEngineHoldsIsTakenWhenADeeperOneIsDamaged) {
  options_.replay_tokens = 600;
  Start();
  const auto tokens = Tokens(1400);
  Put(Objects(tokens, {700, 1100}));
  Spoil(KeyOf(tokens, 1100, ObjectKind::kCheckpoint));
  // By what they gain: 1100, 700, and 1280 in blocks alone, less what is replayed.
  auto request = Restore(tokens, /*n_blocks_held=*/3);
  EXPECT_EQ(request->end->n_tokens, 700);
  EXPECT_TRUE(request->blocks.empty());
  // Without it the blocks are what is left, behind those that are held.
  Spoil(KeyOf(tokens, 700, ObjectKind::kCheckpoint));
  request = Restore(tokens, 3);
  EXPECT_EQ(request->end->n_tokens, 0);
  EXPECT_EQ(request->blocks.size(), 2U);
}

TEST_F(RestoreTest, NothingIsFetchedBeforeTheEngineAsksAndAllAgainWhenItBeginsAnew) {
  Start();
  const auto tokens = Tokens(1000);
  Put(Objects(tokens, {768}));
  const auto request = Ask(tokens);
  Pass(absl::Seconds(60));
  EXPECT_EQ(store_.n_gets, 0);
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
  engine::PrefixFeed& feed = *request->outcome->feed;
  feed.Begin(home_, 0);
  Settle();
  EXPECT_GT(bridge_->n_bytes_used(), 0U);
  EXPECT_EQ(feed.Take(1).blocks.size(), 1U);
  feed.Stop();  // preempted
  Settle();
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
  Take(*request, /*n_blocks_held=*/1);
  EXPECT_EQ(request->end->n_tokens, 768);
  EXPECT_EQ(request->blocks.size(), 2U);
}

TEST_F(RestoreTest, NotACheckpointOfOtherTokensOrOfAnotherNamespace) {
  Start();
  auto tokens = Tokens(400);
  Put(Objects(tokens, {300}));
  tokens[299] = 7;
  EXPECT_EQ(Restore(tokens)->outcome->feed, nullptr);
  tokens = Tokens(400);
  salt_ = std::string(32, 'x');
  EXPECT_EQ(Restore(tokens)->outcome->feed, nullptr);
  salt_ = std::string(32, 's');
  EXPECT_EQ(Restore(tokens)->end->n_tokens, 300);
}

TEST_F(RestoreTest, ASystemPromptSharedByAHundredChatsIsFound) {
  Start();
  const auto prompt = Tokens(768);
  Put(Objects(prompt, {768}));
  for (uint32_t chat = 0; chat < 100; ++chat) {
    auto tokens = prompt;
    for (uint32_t i = 0; i < 100; ++i) tokens.push_back(100'000 + 1000 * chat + i);
    Put(Objects(tokens, {868}));
  }
  auto tokens = prompt;
  for (uint32_t i = 0; i < 197; ++i) tokens.push_back(7);
  EXPECT_EQ(Restore(tokens)->end->n_tokens, 768);
}

TEST_F(RestoreTest, BlocksWithoutAStateAreBroughtWhereReplayingItIsWorthIt) {
  options_.replay_tokens = 600;
  Start();
  const auto tokens = Tokens(2000);
  Put(Objects(tokens, {256}));
  auto request = Restore(tokens);
  EXPECT_EQ(request->outcome->feed->n_tokens(), 7 * 256 - 600);
  EXPECT_EQ(request->blocks.size(), 7U);
  EXPECT_EQ(request->end->n_tokens, 0);
  EXPECT_TRUE(Shows("longshelf_worker_restores_total 1"));
  // A state that is not too far behind is better.
  Put(Objects(tokens, {1500}));
  request = Restore(tokens);
  EXPECT_EQ(request->end->n_tokens, 1500);
  // One that is damaged is none.
  Spoil(KeyOf(tokens, 1500, ObjectKind::kCheckpoint));
  request = Restore(tokens);
  EXPECT_EQ(request->end->n_tokens, 0);
  EXPECT_EQ(request->blocks.size(), 7U);
  EXPECT_EQ(request->end->miss_reason, "digest_mismatch");
  // With a hole in the blocks an early state is what is left.
  Put(Objects(tokens, {1500}));
  Spoil(KeyOf(tokens, 1280, ObjectKind::kBlock));
  request = Restore(tokens);
  EXPECT_EQ(request->end->n_tokens, 256);
}

TEST_F(RestoreTest, AnyDamagedMissingOrMisSizedComponentIsRefusedAndAShallowerCheckpointTaken) {
  struct Case {
    std::string reason;
    int64_t n;
    ObjectKind kind;
    std::function<void(const ObjectKey&)> spoil;
    bool before_lookup = true;
  };
  const auto flip = [this](const ObjectKey& key) { Spoil(key); };
  const auto remove = [this](const ObjectKey& key) { Remove(key); };
  const auto resize = [this](const ObjectKey& key) { Resize(key); };
  const std::vector<Case> cases = {
      {"digest_mismatch", 600, ObjectKind::kCheckpoint, flip},
      {"digest_mismatch", 600, ObjectKind::kTail, flip},
      {"digest_mismatch", 512, ObjectKind::kBlock, flip},
      {"missing", 600, ObjectKind::kCheckpoint, remove, false},
      {"missing", 600, ObjectKind::kTail, remove, false},
      {"missing", 512, ObjectKind::kBlock, remove, false},
      {"no_tail", 600, ObjectKind::kTail, remove},
      {"bad_size", 600, ObjectKind::kCheckpoint, resize},
      {"bad_size", 600, ObjectKind::kTail, resize},
      {"bad_size", 512, ObjectKind::kBlock, resize},
  };
  Start();
  const auto tokens = Tokens(700);
  for (const Case& c : cases) {
    store_.Restart();
    Put(Objects(tokens, {256, 600}));
    const ObjectKey key = KeyOf(tokens, c.n, c.kind);
    if (c.before_lookup) c.spoil(key);
    const auto request = Ask(tokens);
    Settle();
    if (!c.before_lookup) c.spoil(key);
    Take(*request);
    ASSERT_TRUE(request->end.has_value()) << c.reason;
    EXPECT_EQ(request->end->n_tokens, 256) << "the shallower checkpoint is whole";
    EXPECT_EQ(request->end->state, Filled(StateBytes(256), 256));
    EXPECT_EQ(request->blocks.size(), 1U);
    const bool is_seen_in_lookup = c.reason == "no_tail" || (c.reason == "bad_size" && c.kind != ObjectKind::kBlock);
    EXPECT_EQ(is_seen_in_lookup ? request->outcome->miss_reason : request->end->miss_reason, c.reason);
    EXPECT_FALSE(Shows("longshelf_worker_restore_failures_total{reason=\"" + c.reason + "\"} 0"));
  }
}

TEST_F(RestoreTest, WhicheverBlockFailsWhatIsBeforeItIsKeptAndAnEarlierCheckpointTaken) {
  const auto tokens = Tokens(256 * 6 + 91);
  const int64_t n_deep = 256 * 6 + 90;
  const auto nothing = [](const ObjectKey&) {};
  struct Class {
    std::string reason;
    std::function<void(const ObjectKey&)> before_lookup;
    std::function<void(const ObjectKey&)> after_lookup;
  };
  const std::vector<Class> classes = {
      {"digest_mismatch", [this](const ObjectKey& key) { Spoil(key); }, nothing},
      {"bad_size", [this](const ObjectKey& key) { Resize(key); }, nothing},
      {"missing", nothing, [this](const ObjectKey& key) { Remove(key); }},
      {"store_timeout", nothing, nothing},
      {"store_unreachable", nothing, nothing},
  };
  for (const Class& c : classes) {
    for (int64_t i = 0; i < 6; ++i) {
      SCOPED_TRACE(c.reason + " " + std::to_string(i));
      Start();  // another bridge, that has waited for nobody in vain
      SetPrefillSpeed();
      store_.Restart();
      Put(Objects(tokens, {512, n_deep}));
      const ObjectKey key = KeyOf(tokens, 256 * (i + 1), ObjectKind::kBlock);
      c.before_lookup(key);
      const auto request = Ask(tokens);
      Settle();
      c.after_lookup(key);
      // One by one: first state and tail, then the blocks.
      store_.object_latency = absl::Milliseconds(10);
      store_.before_get = [this, &c, n_left = 2 + i]() mutable {
        if (n_left == 1 && c.reason == "store_timeout") store_.object_latency = absl::Hours(1);
        if (n_left == 0 && c.reason == "store_unreachable") store_.down = absl::UnavailableError("down");
        --n_left;
      };
      const absl::Time begun = clock_.Now();
      Take(*request);
      store_.before_get = nullptr;
      store_.object_latency = absl::ZeroDuration();
      store_.down = absl::OkStatus();
      ASSERT_TRUE(request->end.has_value());
      EXPECT_LE(clock_.Now() - begun, absl::Milliseconds(n_deep + 10));
      EXPECT_EQ(request->end->miss_reason, c.reason);
      const bool is_store_down = c.reason.starts_with("store_");
      EXPECT_EQ(request->end->n_tokens, is_store_down || i < 2 ? 0 : 512);
      if (request->end->n_tokens > 0) {
        EXPECT_EQ(request->end->state, Filled(StateBytes(512), 512));
      }
      ASSERT_EQ(request->blocks.size(), static_cast<size_t>(i));
      for (size_t k = 0; k < request->blocks.size(); ++k) {
        EXPECT_EQ(request->blocks[k], Filled(kBlockBytes, 256 * (k + 1)));
      }
    }
  }
}

TEST_F(RestoreTest, NeverHoldsMoreThanItsLeaseHoweverLongThePrefix) {
  options_.memory_bytes = options_.MemoryMin() + 40 * kBlockBytes;
  Start();
  const auto tokens = Tokens(256 * 400);
  Put(Objects(tokens, {256 * 400 - 300}));
  const auto request = Ask(tokens);
  Settle();
  request->outcome->feed->Begin(home_, 0);
  Settle();
  uint64_t n_used = 0;
  for (int i = 0; i < 10000 && !request->end.has_value(); ++i) {
    auto arrived = request->outcome->feed->Take(3);
    n_used = std::max(n_used, bridge_->n_bytes_used());
    Keep(std::move(arrived), *request);
    Settle();
  }
  ASSERT_TRUE(request->end.has_value());
  EXPECT_EQ(request->end->n_tokens, 256 * 400 - 300);
  ASSERT_EQ(request->blocks.size(), 398U);
  for (size_t i = 0; i < request->blocks.size(); ++i) {
    ASSERT_EQ(request->blocks[i], Filled(kBlockBytes, 256 * (i + 1))) << i;
  }
  EXPECT_LE(n_used, options_.memory_bytes / 4);
  EXPECT_LE(store_.n_bytes_out_max, n_used);
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
}

TEST_F(RestoreTest, WhoFindsNoMemoryWaitsForOthersToEnd) {
  options_.memory_bytes = options_.MemoryMin();
  Start();
  const auto tokens = Tokens(3000);
  Put(Objects(tokens, {2900}));
  std::vector<std::shared_ptr<Request>> requests;
  for (int i = 0; i < 10; ++i) requests.push_back(Ask(tokens));
  Settle();
  for (const auto& request : requests) request->outcome->feed->Begin(home_, 0);
  Settle();
  EXPECT_LE(bridge_->n_bytes_used(), options_.memory_bytes);
  size_t n_ended = 0;
  for (int i = 0; i < 1000 && n_ended < requests.size(); ++i) {
    n_ended = 0;
    for (const auto& request : requests) {
      if (!request->end.has_value()) Keep(request->outcome->feed->Take(1), *request);
      n_ended += request->end.has_value() ? 1 : 0;
      Settle();
      EXPECT_LE(bridge_->n_bytes_used(), options_.memory_bytes);
    }
  }
  for (const auto& request : requests) EXPECT_EQ(request->end->n_tokens, 2900);
}

TEST_F(RestoreTest, GoesOnWithoutAStoreThatIsDownAndSoonStopsAsking) {
  Start();
  EXPECT_TRUE(Shows("longshelf_worker_store_up 1")) << "nobody was asked yet";
  store_.down = absl::UnavailableError("down");
  for (int i = 0; i < 20; ++i) {
    const auto request = Restore(Tokens(300));
    EXPECT_EQ(request->outcome->feed, nullptr);
    EXPECT_EQ(request->outcome->miss_reason, "store_unreachable");
  }
  EXPECT_EQ(store_.n_lookups, 2);
  EXPECT_FALSE(bridge_->store_up());
  EXPECT_TRUE(Shows("longshelf_worker_store_up 0"));
  EXPECT_EQ(Park(Tokens(300)).status().code(), absl::StatusCode::kNotFound) << "the engine was asked";
}

// The measured case: 200 unknown short prompts at once, each frame takes 0.9 s.
TEST_F(RestoreTest, ASlowStoreCostsABurstOfShortPromptsNoMoreThanComputingThem) {
  Start();
  SetPrefillSpeed();
  store_.latency = absl::Milliseconds(900);
  EXPECT_LE(LongestWaitOfABurst(200), options_.shortest_wait);
  // Those who come later do not wait at all, but for one in a while.
  int n_waited = 0;
  for (uint32_t i = 0; i < 40; ++i) {
    const auto request = Ask(Tokens(50, 1'000'000 + i * 1000));
    Settle();
    n_waited += request->outcome.has_value() ? 0 : 1;
    Pass(absl::Milliseconds(10));
  }
  EXPECT_LE(n_waited, 2);
  // To whom it is worth waiting, waits.
  const auto tokens = Tokens(5000, 2'000'000);
  store_.latency = absl::ZeroDuration();
  Put(Objects(tokens, {4900}));
  store_.latency = absl::Milliseconds(900);
  const auto request = Ask(tokens);
  Pass(absl::Seconds(1));
  EXPECT_NE(request->outcome->feed, nullptr);
}

TEST_F(RestoreTest, BeforeAnythingWasMeasuredABurstWaitsForOneLookupAtMost) {
  Start();
  store_.latency = absl::Hours(1);
  EXPECT_LE(LongestWaitOfABurst(200), options_.lookup_timeout);
  EXPECT_EQ(store_.n_lookups, 200) << "all at once";
}

TEST_F(RestoreTest, TimeBeforeTheBridgeLooksAtARequestIsTakenOffToo) {
  Start();
  SetPrefillSpeed();
  store_.latency = absl::Hours(1);
  const auto short_one = Ask(Tokens(50));
  const auto long_one = Ask(Tokens(501, 1000));
  clock_.Advance(absl::Milliseconds(300));
  Settle();
  ASSERT_TRUE(short_one->outcome.has_value());
  EXPECT_EQ(short_one->outcome->miss_reason, "store_timeout");
  EXPECT_EQ(store_.n_lookups, 1) << "nobody asks for what is too late";
  Pass(absl::Milliseconds(190));
  EXPECT_FALSE(long_one->outcome.has_value());
  Pass(absl::Milliseconds(10));
  EXPECT_TRUE(long_one->outcome.has_value()) << "500 ms after it came";
}

TEST_F(RestoreTest, WhatTheLookupTookTheFetchHasLess) {
  Start();
  SetPrefillSpeed();
  const auto tokens = Tokens(2001);
  Put(Objects(tokens, {2000}));
  store_.latency = absl::Milliseconds(900);
  const auto request = Ask(tokens);
  Pass(absl::Milliseconds(900));
  ASSERT_TRUE(request->outcome.has_value());
  store_.object_latency = absl::Hours(1);
  const absl::Time begun = clock_.Now();
  Take(*request);
  EXPECT_EQ(request->end->miss_reason, "store_timeout");
  EXPECT_EQ(clock_.Now() - begun, absl::Milliseconds(1100));
}

// It would have waited there without a store too, and then computing would begin.
TEST_F(RestoreTest, TimeInTheEnginesQueueIsNotTakenOff) {
  Start();
  SetPrefillSpeed();
  const auto tokens = Tokens(2001);
  Put(Objects(tokens, {2000}));
  store_.object_latency = absl::Milliseconds(100);
  const auto request = Ask(tokens);
  Pass(absl::Seconds(60));
  Take(*request);
  EXPECT_EQ(request->end->n_tokens, 2000) << request->end->miss_reason;
}

// A checkpoint leaves 460 tokens more to compute than blocks alone, and spares fetching five of them.
TEST_F(RestoreTest, BlocksToReplayOrACheckpointWhicheverIsDoneSooner) {
  options_.replay_tokens = 600;
  for (const bool is_fast : {false, true}) {
    Start();
    SetPrefillSpeed();
    store_.object_latency = absl::Milliseconds(is_fast ? 15 : 150);
    LearnFetchSpeed();
    const auto tokens = Tokens(2700, is_fast ? 200'000 : 300'000);
    Put(Objects(tokens, {1500}));
    const auto request = Restore(tokens);
    EXPECT_EQ(request->end->n_tokens, is_fast ? 0 : 1500) << request->end->miss_reason;
    EXPECT_EQ(request->blocks.size(), is_fast ? 10U : 5U);
  }
}

TEST_F(RestoreTest, AShallowCheckpointIsTakenWhereADeepOneIsFetchedSlowerThanComputed) {
  Start();
  store_.object_latency = absl::Milliseconds(10);
  LearnFetchSpeed();
  bridge_->SetPrefillSpeed({.seconds_per_token = 0.00001, .per_position = 0.0});
  const auto tokens = Tokens(256 * 40);
  Put(Objects(tokens, {600, 256 * 40 - 10}));
  auto request = Restore(tokens, /*n_blocks_held=*/2);
  EXPECT_EQ(request->end->n_tokens, 600) << request->end->miss_reason;
  EXPECT_TRUE(request->blocks.empty());
  // Nor is the deep one fetched in its place, but by who looks whether the store is still that slow.
  const auto other = Tokens(256 * 40, 500'000);
  Put(Objects(other, {256 * 40 - 10}));
  const auto looks = Ask(other);
  Settle();
  looks->outcome->feed->Begin(home_, 0);
  Settle();
  looks->outcome->feed.reset();
  Settle();
  Spoil(KeyOf(tokens, 600, ObjectKind::kCheckpoint));
  request = Restore(tokens, 2);
  EXPECT_EQ(request->end->n_tokens, 0);
  EXPECT_EQ(request->end->miss_reason, "digest_mismatch");
  EXPECT_TRUE(request->blocks.empty());
}

TEST_F(RestoreTest, AStoreThatStopsInTheMiddleCostsAtMostWhatComputingTakes) {
  Start();
  SetPrefillSpeed();
  const auto tokens = Tokens(2000);
  Put(Objects(tokens, {1900}));
  const auto request = Ask(tokens);
  Settle();
  request->outcome->feed->Begin(home_, 0);
  Settle();
  store_.object_latency = absl::Hours(1);
  const auto other = Ask(tokens);
  Settle();
  const absl::Time begun = clock_.Now();
  Take(*other);
  EXPECT_EQ(other->end->n_tokens, 0);
  EXPECT_EQ(other->end->miss_reason, "store_timeout");
  EXPECT_LE(clock_.Now() - begun, absl::Milliseconds(1920));
  EXPECT_GE(store_.n_cancelled, 1);
  // It is not tried again and again.
  const auto third = Restore(tokens);
  EXPECT_EQ(third->end->miss_reason, "slower_than_computing");
}

// Others' prompts make the engine's steps long; what has come in time is not given up meanwhile.
// Whoever says first that the time is over: the timer, or the call.
TEST_F(RestoreTest, FetchesThatRunOutOfTheirTimeAreNoFailuresOfTheStore) {
  Start();
  SetPrefillSpeed();
  const auto tokens = Tokens(5000);
  Put(Objects(tokens, {4900}));
  store_.before_get = [this] { store_.down = absl::DeadlineExceededError("too late"); };
  for (int i = 0; i < 3; ++i) {
    store_.down = absl::OkStatus();
    const auto request = Restore(tokens);
    ASSERT_NE(request->outcome->feed, nullptr) << i << " " << request->outcome->miss_reason;
    ASSERT_TRUE(request->end.has_value());
    EXPECT_EQ(request->end->n_tokens, 0);
  }
}

TEST_F(RestoreTest, WhatHasComeIsKeptHoweverSlowlyTheEngineTakesIt) {
  Start();
  SetPrefillSpeed();
  store_.object_latency = absl::Milliseconds(10);
  for (const int64_t n : {300, 512}) {  // as many ms
    const auto tokens = Tokens(static_cast<size_t>(n) + 1, static_cast<uint32_t>(1000 * n));
    Put(Objects(tokens, {n}));
    const auto request = Ask(tokens);
    Pass(absl::Milliseconds(10));
    ASSERT_TRUE(request->outcome.has_value());
    engine::PrefixFeed& feed = *request->outcome->feed;
    feed.Begin(home_, 0);
    for (int step = 0; step < 5 && !request->end.has_value(); ++step) {
      Pass(absl::Milliseconds(200));
      auto arrived = feed.Take(1);
      Keep(std::move(arrived), *request);
      EXPECT_TRUE(request->end.has_value() || bridge_->n_bytes_used() > 0) << "what was not taken needs its memory";
    }
    ASSERT_TRUE(request->end.has_value());
    EXPECT_EQ(request->end->n_tokens, n) << request->end->miss_reason;
    EXPECT_EQ(request->blocks.size(), static_cast<size_t>(n / 256));
  }
  EXPECT_TRUE(Shows("longshelf_worker_restore_failures_total{reason=\"store_timeout\"} 0"));
  EXPECT_TRUE(Shows("longshelf_worker_restore_seconds_bucket{le=\"0.05\"} 2")) << "what it took the store";
}

TEST_F(RestoreTest, WhatIsFetchedSlowerThanItIsComputedIsComputed) {
  Start();
  bridge_->SetPrefillSpeed({.seconds_per_token = 0.00001, .per_position = 0.0});
  const auto tokens = Tokens(256 * 40);
  Put(Objects(tokens, {256 * 40 - 10}));
  store_.object_latency = absl::Milliseconds(10);
  EXPECT_EQ(Restore(tokens)->end->miss_reason, "store_timeout");
  EXPECT_EQ(Restore(tokens)->end->miss_reason, "slower_than_computing");
  store_.object_latency = absl::ZeroDuration();
  Pass(absl::Seconds(6));
  EXPECT_EQ(Restore(tokens)->end->n_tokens, 256 * 40 - 10) << "now and then somebody looks";
}

TEST_F(RestoreTest, AStallIsForgottenWhenOneRestoreHasComeThroughAgain) {
  Start();
  SetPrefillSpeed();
  const auto tokens = [](uint32_t i) { return Tokens(2000, 10'000 * i); };
  for (uint32_t i = 0; i < 4; ++i) Put(Objects(tokens(i), {1900}));
  const auto longer = Tokens(5000, 100'000);
  Put(Objects(longer, {4900}));
  store_.object_latency = absl::Hours(1);
  EXPECT_EQ(Restore(tokens(0))->end->miss_reason, "store_timeout") << "before a single object had come";
  store_.object_latency = absl::ZeroDuration();
  EXPECT_EQ(Restore(tokens(0))->end->miss_reason, "slower_than_computing");
  Pass(absl::Seconds(6));
  for (uint32_t i = 1; i < 4; ++i) EXPECT_EQ(Restore(tokens(i))->end->n_tokens, 1900) << i;
  // It says nothing to those who can wait longer.
  store_.object_latency = absl::Hours(1);
  EXPECT_EQ(Restore(tokens(0))->end->miss_reason, "store_timeout");
  store_.object_latency = absl::ZeroDuration();
  EXPECT_EQ(Restore(tokens(0))->end->miss_reason, "slower_than_computing");
  EXPECT_EQ(Restore(longer)->end->n_tokens, 4900);
}

TEST_F(RestoreTest, StopsForASequenceThatWasCancelled) {
  Start();
  const auto tokens = Tokens(2000);
  Put(Objects(tokens, {1900}));
  const auto request = Ask(tokens);
  Settle();
  store_.object_latency = absl::Milliseconds(100);
  request->outcome->feed->Begin(home_, 0);
  Pass(absl::Milliseconds(250));
  request->outcome->feed.reset();  // the sequence is gone
  Settle();
  EXPECT_EQ(store_.n_cancelled, 1);
  EXPECT_EQ(bridge_->n_bytes_used(), 0U);
}

TEST_F(RestoreTest, WhoeverWaitsWhenTheWorkerStopsIsAnswered) {
  Start();
  store_.latency = absl::Milliseconds(500);
  const auto request = Ask(Tokens(300));
  Settle();
  bridge_->Stop();
  Settle();
  ASSERT_TRUE(request->outcome.has_value());
  EXPECT_EQ(request->outcome->miss_reason, "store_unreachable");
  bridge_.reset();
  Pass(absl::Seconds(1));  // the answer comes to nobody
}

}  // namespace
}  // namespace longshelf::worker
