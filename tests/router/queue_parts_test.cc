// The parts that the dispatcher's queue is made of, each by itself.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "queue/backlog.h"
#include "queue/drain_rate.h"
#include "queue/pulse.h"
#include "queue/room.h"
#include "queue/worker_state.h"

namespace longshelf::router::internal {
namespace {

constexpr ServiceTier kDefault = ServiceTier::kDefault;

class BacklogTest : public ::testing::Test {
 protected:
  void Push(Waiter& waiter, const std::string& tenant, uint64_t n_tokens, ServiceTier tier = kDefault) {
    backlog_.Join(waiter, tenant, tier);
    backlog_.Push(waiter, n_tokens, /*to_front=*/false);
  }
  Waiter* BeginNext() {
    Backlog::Pass pass(backlog_);
    Waiter* next = pass.Next(/*only_under_share=*/false);
    if (next == nullptr) return nullptr;
    const auto n_tokens = static_cast<double>(next->n_tokens);
    backlog_.Begin(*next);
    Backlog::Charge(*next, n_tokens);
    return next;
  }
  void End(Waiter& waiter) {
    Backlog::End(waiter);
    backlog_.Leave(waiter);
  }
  Backlog backlog_;
};

TEST_F(BacklogTest, CountsTokensNotRequests) {
  std::array<Waiter, 40> large;
  std::array<Waiter, 400> small;
  for (Waiter& waiter : large) Push(waiter, "large", 1000);
  for (Waiter& waiter : small) Push(waiter, "small", 100);
  uint64_t n_large = 0;
  uint64_t n_small = 0;
  for (int i = 0; i < 110; ++i) (BeginNext()->n_tokens == 1000 ? n_large : n_small) += 1;
  EXPECT_NEAR(static_cast<double>(n_large), 10, 1);
  EXPECT_NEAR(static_cast<double>(n_small), 100, 1);
}

TEST_F(BacklogTest, OutputCountsAsMuchAsPrompts) {
  std::array<Waiter, 20> talkers;
  std::array<Waiter, 20> readers;
  for (Waiter& waiter : talkers) Push(waiter, "talks", 100);
  for (Waiter& waiter : readers) Push(waiter, "reads", 100);
  int n_talkers = 0;
  for (int i = 0; i < 12; ++i) {
    Waiter* next = BeginNext();
    const bool is_talker = next >= talkers.data() && next < talkers.data() + talkers.size();
    n_talkers += is_talker ? 1 : 0;
    if (is_talker) Backlog::Charge(*next, 500);
  }
  EXPECT_LE(n_talkers, 3);
}

TEST_F(BacklogTest, NobodySavesUpByBeingIdle) {
  std::array<Waiter, 200> busy;
  std::array<Waiter, 200> idle;
  Push(idle[0], "idle", 100);
  for (Waiter& waiter : busy) Push(waiter, "busy", 100);
  for (int i = 0; i < 100; ++i) BeginNext();  // the idle one's among the first, and runs on
  for (size_t i = 1; i < idle.size(); ++i) Push(idle[i], "idle", 100);
  for (int i = 0; i < 20; ++i) BeginNext();
  int n_busy_waiting = 0;
  for (const Waiter& waiter : busy) n_busy_waiting += waiter.in_line ? 1 : 0;
  EXPECT_NEAR(n_busy_waiting, 90, 3) << "they take turns";
}

TEST_F(BacklogTest, OneThatWasSentBackIsNext) {
  std::array<Waiter, 3> waiters;
  for (Waiter& waiter : waiters) Push(waiter, "t", 10);
  EXPECT_EQ(BeginNext(), &waiters[0]);
  Backlog::End(waiters[0]);
  backlog_.Push(waiters[0], 10, /*to_front=*/true);
  EXPECT_EQ(BeginNext(), &waiters[0]);
  EXPECT_EQ(BeginNext(), &waiters[1]);
}

TEST_F(BacklogTest, APassGoesOnBehindWhoeverNoWorkerTook) {
  std::array<Waiter, 30> waiters;
  for (Waiter& waiter : waiters) Push(waiter, "t", 10);
  Backlog::Pass pass(backlog_);
  std::vector<Waiter*> seen;
  while (Waiter* next = pass.Next(false)) {
    seen.push_back(next);
    if (next == &waiters[1]) {
      backlog_.Begin(*next);
    } else {
      pass.Skip(*next);
    }
  }
  ASSERT_EQ(seen.size(), 9u) << "it looks ahead, and not to the end";
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], &waiters[i]);
}

TEST_F(BacklogTest, TellsWhatIsAheadInWhatShare) {
  std::array<Waiter, 4> a;
  std::array<Waiter, 2> b;
  for (Waiter& waiter : a) Push(waiter, "a", 100);
  EXPECT_EQ(backlog_.TokensAhead("a", kDefault, SizeClass::kShort), 400);
  EXPECT_EQ(backlog_.TokensAhead("b", kDefault, SizeClass::kShort), 0);
  for (Waiter& waiter : b) Push(waiter, "b", 100);
  EXPECT_EQ(backlog_.TokensAhead("a", kDefault, SizeClass::kShort), 800) << "half of what is served is theirs";
  EXPECT_EQ(backlog_.TokensAhead("b", kDefault, SizeClass::kShort), 400);
  EXPECT_EQ(backlog_.n_tokens("a"), 400u);
  EXPECT_EQ(backlog_.n_members("b"), 2u);
  std::vector<double> ahead;
  backlog_.FromTheEnds([&](Waiter& waiter, double n_tokens) {
    if (&waiter >= a.data() && &waiter < a.data() + a.size()) ahead.push_back(n_tokens);
    return true;
  });
  EXPECT_EQ(ahead, (std::vector<double>{600, 400, 200, 0}));
}

TEST_F(BacklogTest, OneWithLessThanItsShareIsKnown) {
  std::array<Waiter, 4> a;
  Waiter b;
  Waiter flex;
  for (Waiter& waiter : a) Push(waiter, "a", 10);
  for (int i = 0; i < 2; ++i) BeginNext();
  Push(b, "b", 10);
  Push(flex, "b", 10, ServiceTier::kFlex);
  EXPECT_TRUE(backlog_.IsUnderShare(*b.flow));
  EXPECT_FALSE(backlog_.IsUnderShare(*flex.flow)) << "one of a quarter of the weight is as good as four";
  EXPECT_FALSE(backlog_.IsUnderShare(*a[0].flow));
  backlog_.Begin(b);
  EXPECT_FALSE(backlog_.IsUnderShare(*b.flow));
}

TEST(DrainRate, IsOfTheTimeInWhichSomebodyWaits) {
  DrainRate rate;
  absl::Time now = absl::UnixEpoch();
  EXPECT_FALSE(rate.TokensPerSecond(16).has_value());
  rate.OnPlaced(1'000'000);  // nobody waited
  for (int i = 0; i < 100; ++i) {
    rate.SetBusy(true, 16, now);
    now += absl::Milliseconds(20);
    rate.OnPlaced(100);
    rate.SetBusy(false, 16, now);
    now += absl::Minutes(1);
  }
  ASSERT_TRUE(rate.TokensPerSecond(16).has_value());
  EXPECT_NEAR(*rate.TokensPerSecond(16), 5000, 100);
  EXPECT_NEAR(*rate.TokensPerSecond(32), 10000, 200) << "workers came";
  // Ten times as slow, it says so after some of the new kind.
  for (int i = 0; i < 100; ++i) {
    rate.SetBusy(true, 16, now);
    now += absl::Milliseconds(200);
    rate.OnPlaced(100);
  }
  EXPECT_NEAR(*rate.TokensPerSecond(16), 500, 50);
}

TEST(HasRoom, GivesAWorkerItsSlotsAndAFewMore) {
  const absl::Duration second = absl::Seconds(1);
  WorkerRoom room;
  room.n_slots = 16;
  room.n_streams = 17;
  EXPECT_TRUE(HasRoom(room, {.n_tokens = 10}, second));
  room.n_streams = 18;
  EXPECT_FALSE(HasRoom(room, {.n_tokens = 10}, second));
  EXPECT_TRUE(HasRoom(room, {.n_tokens = 10, .n_blocks = 0, .is_under_share = true}, second));
  room.n_streams = 20;
  EXPECT_FALSE(HasRoom(room, {.n_tokens = 10, .n_blocks = 0, .is_under_share = true}, second));
  room.n_streams = 3;
  room.knows_blocks = true;
  room.n_blocks_free = 5;
  EXPECT_TRUE(HasRoom(room, {.n_tokens = 10, .n_blocks = 5}, second));
  EXPECT_FALSE(HasRoom(room, {.n_tokens = 10, .n_blocks = 6}, second));
  room.n_streams = 0;
  EXPECT_TRUE(HasRoom(room, {.n_tokens = 10, .n_blocks = 6}, second)) << "an idle one says itself what it cannot do";
}

TEST(Pulse, ASilentWorkerIsAskedTwiceBeforeItIsGone) {
  Pulse pulse;
  int n_asked = 0;
  int n_beats = 0;
  for (auto verdict = Pulse::Verdict::kAlive; verdict != Pulse::Verdict::kGone; ++n_beats) {
    verdict = pulse.OnBeat();
    n_asked += verdict == Pulse::Verdict::kAsk ? 1 : 0;
  }
  EXPECT_EQ(n_beats * Pulse::kBeatMs, 2000);
  EXPECT_EQ(n_asked, 2);
}

TEST(Pulse, AnySignIsEnough) {
  Pulse pulse;
  for (int i = 0; i < 100; ++i) {
    if (i % 7 == 6) pulse.OnSign();
    EXPECT_NE(pulse.OnBeat(), Pulse::Verdict::kGone);
  }
}

TEST(WorkerState, WhatOthersHaveThereIsTheLeastOfItsLastWords) {
  WorkerState worker;
  worker.OnUp({});
  EXPECT_EQ(worker.n_streams_of_others(), 0u);
  worker.n_streams = 4;
  const auto say = [&](uint32_t n_running) {
    WorkerLoad load;
    load.n_sequences_max = 16;
    load.n_running = n_running;
    worker.OnLoad(load, absl::UnixEpoch());
  };
  say(10);
  EXPECT_EQ(worker.n_streams_of_others(), 6u);
  say(7);  // sequences that are leaving count for a moment, and streams that are on their way do not
  say(9);
  EXPECT_EQ(worker.n_streams_of_others(), 3u);
  say(9);
  say(9);
  EXPECT_EQ(worker.n_streams_of_others(), 5u);
}

}  // namespace
}  // namespace longshelf::router::internal
