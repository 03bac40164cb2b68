// The parts that the bridge's machines are made of.

#include <gtest/gtest.h>

#include <vector>

#include "bridge_core.h"
#include "byte_budget.h"
#include "common/breaker.h"
#include "common/task_loop.h"
#include "restore_feed.h"

namespace longshelf::worker {
namespace {

TEST(Breaker, OpensAfterFailuresInARowPausesLongerEachTimeAndClosesOnAnAnswer) {
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
  breaker.Answered(absl::Milliseconds(1));
  EXPECT_TRUE(breaker.MayCall(t));
  EXPECT_FALSE(breaker.is_open(t));
}

TEST(Breaker, FailuresOfCallsThatBeganBeforeItOpenedDoNotMakeThePauseLonger) {
  Breaker breaker;
  absl::Time t = absl::UnixEpoch();
  for (int i = 0; i < 10; ++i) breaker.Failed(t);
  EXPECT_FALSE(breaker.MayCall(t + absl::Milliseconds(499)));
  t += absl::Milliseconds(500);
  EXPECT_TRUE(breaker.MayCall(t));
  for (int i = 0; i < 10; ++i) breaker.Failed(t);
  EXPECT_FALSE(breaker.MayCall(t + absl::Milliseconds(999)));
  EXPECT_TRUE(breaker.MayCall(t + absl::Milliseconds(1000)));
}

TEST(Breaker, KeepsAwayThoseToWhomASlowAnswerIsWorthNothing) {
  Breaker breaker;
  absl::Time t = absl::UnixEpoch();
  breaker.Answered(absl::Milliseconds(900));
  EXPECT_TRUE(breaker.MayCall(t, absl::Seconds(5)));
  EXPECT_TRUE(breaker.MayCall(t, absl::Milliseconds(100))) << "the first one looks whether it is still so";
  EXPECT_FALSE(breaker.MayCall(t, absl::Milliseconds(100)));
  EXPECT_TRUE(breaker.MayCall(t, absl::Seconds(5)));
  EXPECT_FALSE(breaker.is_open(t));
  t += absl::Milliseconds(501);
  EXPECT_TRUE(breaker.MayCall(t, absl::Milliseconds(100)));
  for (int i = 0; i < 6; ++i) breaker.Answered(absl::Milliseconds(1));
  EXPECT_TRUE(breaker.MayCall(t, absl::Milliseconds(100)));
  breaker.TooSlow(absl::Milliseconds(100));
  t += absl::Milliseconds(501);
  EXPECT_TRUE(breaker.MayCall(t, absl::Milliseconds(150)));
  EXPECT_FALSE(breaker.MayCall(t, absl::Milliseconds(150)));
  EXPECT_TRUE(breaker.MayCall(t, absl::Milliseconds(250)));
}

TEST(FetchSpeed, OneThatComesReplacesWhatWasKnownWhenSomebodyLooks) {
  FetchSpeed speed(1000);
  absl::Time t = absl::UnixEpoch();
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Milliseconds(1), t)) << "nothing is known";
  for (int i = 0; i < 20; ++i) speed.Observe(10'000, absl::Seconds(1));
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Seconds(200), t));
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Seconds(2), t)) << "the first one looks";
  EXPECT_FALSE(speed.IsWorth(1'000'000, absl::Seconds(2), t));
  speed.Observe(1'000'000, absl::Seconds(1));
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Seconds(2), t));
}

TEST(FetchSpeed, FewBytesTellOfLatencyOnly) {
  FetchSpeed speed(1000);
  const absl::Time t = absl::UnixEpoch();
  speed.Observe(1'000'000, absl::Milliseconds(100));
  for (int i = 0; i < 20; ++i) speed.Observe(100, absl::Milliseconds(50));
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Milliseconds(110), t));
  speed.TooSlow(100, absl::Milliseconds(100), t);
  EXPECT_FALSE(speed.IsWorth(1'000'000, absl::Milliseconds(110), t));
  EXPECT_FALSE(speed.IsWorth(100, absl::Milliseconds(110), t));
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Milliseconds(200), t)) << "it could not have known";
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Milliseconds(110), t + absl::Seconds(5)));
  speed.TooSlow(100, absl::Milliseconds(110), t + absl::Seconds(6));
  EXPECT_FALSE(speed.IsWorth(1'000'000, absl::Milliseconds(110), t + absl::Seconds(10)));
  speed.Observe(100, absl::Milliseconds(1));
  EXPECT_TRUE(speed.IsWorth(1'000'000, absl::Milliseconds(110), t + absl::Seconds(10)));
}

TEST(TaskLoop, RunsTasksInOrderAndTimersWhenTheyAreDue) {
  ManualClock clock;
  TaskLoop loop(clock);
  std::vector<int> ran;
  loop.Post([&] {
    loop.At(clock.Now() + absl::Seconds(2), [&] { ran.push_back(4); });
    loop.At(clock.Now() + absl::Seconds(1), [&] { ran.push_back(3); });
    ran.push_back(1);
    loop.Post([&] { ran.push_back(2); });
  });
  loop.RunReady();
  EXPECT_EQ(ran, (std::vector<int>{1, 2}));
  clock.Advance(absl::Seconds(1));
  loop.RunReady();
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 3}));
  clock.Advance(absl::Seconds(1));
  loop.RunReady();
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 3, 4}));
  loop.Close();
  loop.Post([&] { ran.push_back(5); });
  loop.RunReady();
  EXPECT_EQ(ran.size(), 4U);
}

class ByteBudgetTest : public ::testing::Test {
 protected:
  using Way = ByteBudget::Way;
  using Lease = std::shared_ptr<ByteBudget::Lease>;
  void Take(Way way, uint64_t n_bytes, Lease& into) {
    budget_.Take(way, n_bytes, [&into](const Lease& lease) { into = lease; });
  }
  ManualClock clock_;
  std::shared_ptr<TaskLoop> loop_ = std::make_shared<TaskLoop>(clock_);
  ByteBudget budget_{100, loop_};
};

TEST_F(ByteBudgetTest, TheWayOutMayHaveHalfAndWaitsForItsTurn) {
  auto first = budget_.TryTake(Way::kOut, 50);
  EXPECT_TRUE(first.has_value());
  EXPECT_FALSE(budget_.TryTake(Way::kOut, 1).has_value());
  Lease in;
  Lease out;
  Take(Way::kOut, 20, out);
  Take(Way::kIn, 50, in);
  loop_->RunReady();
  EXPECT_NE(in, nullptr) << "the way in goes first";
  EXPECT_EQ(out, nullptr);
  EXPECT_EQ(budget_.n_used(), 100U);
  first.reset();
  loop_->RunReady();
  EXPECT_NE(out, nullptr);
  EXPECT_EQ(budget_.n_used(), 70U);
  out.reset();
  in.reset();
  EXPECT_EQ(budget_.n_used(), 0U);
}

TEST_F(ByteBudgetTest, WhoWaitsIsNotPassedBySmallerOnes) {
  auto most = budget_.TryTake(Way::kIn, 80);
  Lease large;
  Lease small;
  Take(Way::kIn, 40, large);
  Take(Way::kIn, 10, small);
  EXPECT_FALSE(budget_.TryTake(Way::kIn, 1).has_value());
  loop_->RunReady();
  EXPECT_EQ(small, nullptr);
  most.reset();
  loop_->RunReady();
  EXPECT_NE(large, nullptr);
  EXPECT_NE(small, nullptr);
}

TEST_F(ByteBudgetTest, ALeaseThatNobodyHearsOfIsFreeAgain) {
  auto all = budget_.TryTake(Way::kIn, 100);
  Lease never;
  Take(Way::kIn, 60, never);
  loop_->Close();
  all.reset();  // the grant is posted to a loop that runs no more
  EXPECT_EQ(budget_.n_used(), 0U);
}

TEST(RestoreFeed, ForgetsWhatAnEarlierAttemptDelivers) {
  std::vector<std::string> heard;
  int n_rung = 0;
  RestoreFeed::Listener listener;
  listener.on_begin = [&](uint32_t attempt, uint16_t shard, int64_t n) {
    heard.push_back("begin " + std::to_string(attempt) + " at " + std::to_string(shard) + ": " + std::to_string(n));
  };
  listener.on_taken = [&](uint32_t attempt, uint64_t n) {
    heard.push_back("taken " + std::to_string(attempt) + " " + std::to_string(n));
  };
  listener.on_stop = [&] { heard.push_back("stop"); };
  const auto ledger = std::make_shared<engine::KvCopyLedger>();
  const auto copy_of = [&](size_t n_bytes) { return ledger->HoldNew(3, n_bytes, {}); };
  {
    RestoreFeed feed(600, listener, [&] { ++n_rung; });
    feed.Begin(3, 1);
    feed.Deliver(1, copy_of(10));
    feed.Deliver(1, copy_of(20));
    EXPECT_EQ(feed.Take(1).blocks.size(), 1U);
    EXPECT_EQ(feed.Take(1).blocks.size(), 1U);
    feed.Stop();
    feed.Stop();
    feed.Begin(3, 2);
    feed.Deliver(1, copy_of(30));
    feed.Finish(1, {}, nullptr);
    EXPECT_TRUE(feed.Take(5).blocks.empty());
    feed.Deliver(2, copy_of(40));
    feed.Finish(2, {.n_tokens = 600, .state = {}, .tail = {}, .miss_reason = {}}, nullptr);
    const auto blocks = feed.Take(5);
    EXPECT_EQ(blocks.blocks.size(), 1U);
    EXPECT_FALSE(blocks.end.has_value()) << "comes alone";
    EXPECT_TRUE(feed.Take(5).end.has_value());
  }
  EXPECT_EQ(heard, (std::vector<std::string>{"begin 1 at 3: 1", "taken 1 10", "stop", "begin 2 at 3: 2", "taken 2 40",
                                             "stop"}));
  EXPECT_EQ(ledger->TakeDropped().size(), 4U) << "nobody holds what came late or was taken";
  EXPECT_EQ(n_rung, 3) << "once while something lies there, and at the end";
}

}  // namespace
}  // namespace longshelf::worker
