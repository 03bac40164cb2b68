#include "router/pick.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace longshelf::router {
namespace {

std::vector<WorkerCandidate> Idle(size_t n) {
  std::vector<WorkerCandidate> workers(n);
  for (WorkerCandidate& w : workers) {
    w.usable = true;
    w.n_streams_max = 16;
  }
  return workers;
}

TEST(PickWorker, PicksNobodyWhenNobodyIsUsable) {
  std::vector<WorkerCandidate> workers(3);
  EXPECT_FALSE(PickWorker(workers, 100).has_value());
  EXPECT_FALSE(PickWorker({}, 100).has_value());
}

TEST(PickWorker, PrefersTheLongestPrefixWhenLoadIsEqual) {
  auto workers = Idle(3);
  workers[1].n_usable_prefix = 256;
  workers[2].n_usable_prefix = 512;
  const auto pick = PickWorker(workers, 1000);
  ASSERT_TRUE(pick.has_value());
  EXPECT_EQ(pick->worker, 2u);
  EXPECT_EQ(pick->reason, PickReason::kPrefix);
}

TEST(PickWorker, LeavesTheHottestWorkerWhenItsQueueCostsMoreThanThePrefixSaves) {
  auto workers = Idle(2);
  workers[0].n_usable_prefix = 512;
  workers[0].n_tokens_queued = 600;
  const auto pick = PickWorker(workers, 1000);
  ASSERT_TRUE(pick.has_value());
  EXPECT_EQ(pick->worker, 1u);
  EXPECT_EQ(pick->reason, PickReason::kLoad);
}

TEST(PickWorker, ALongPrefixIsWorthSomeLoad) {
  auto workers = Idle(2);
  workers[0].n_usable_prefix = 30000;
  workers[0].n_streams = 8;
  EXPECT_EQ(PickWorker(workers, 32000)->worker, 0u);
}

TEST(PickWorker, AFullWorkerLosesAPrefixThatIsCheaperThanTheWait) {
  auto workers = Idle(2);
  workers[0].n_usable_prefix = 4000;
  workers[0].n_streams = 16;
  EXPECT_EQ(PickWorker(workers, 4500)->worker, 1u);
  workers[0].n_streams = 15;
  EXPECT_EQ(PickWorker(workers, 4500)->worker, 0u);
}

TEST(PickWorker, EqualWorkersTakeTurns) {
  auto workers = Idle(4);
  std::vector<int> n_picked(4);
  for (uint64_t turn = 1; turn <= 40; ++turn) {
    const auto pick = PickWorker(workers, 100);
    workers[pick->worker].last_pick = turn;
    ++n_picked[pick->worker];
  }
  EXPECT_EQ(n_picked, (std::vector<int>{10, 10, 10, 10}));
}

// 480 of 480 requests on one of eight workers is how others fail: prompts that share a prefix must not pile up.
TEST(PickWorker, AFloodOfOnePrefixSpreadsOverAllWorkers) {
  auto workers = Idle(8);
  workers[0].n_usable_prefix = 4096;
  for (uint64_t turn = 1; turn <= 256; ++turn) {
    const auto pick = PickWorker(workers, 5000);
    WorkerCandidate& w = workers[pick->worker];
    w.last_pick = turn;
    ++w.n_streams;
    w.n_usable_prefix = 4096;  // it computes the prefix, then it has it
  }
  uint32_t most = 0;
  for (const WorkerCandidate& w : workers) most = std::max(most, w.n_streams);
  EXPECT_LE(most, 42u) << "max/mean load must stay at or below 1.3";
}

TEST(PickWorker, AColdFloodSpreadsEvenly) {
  auto workers = Idle(8);
  for (uint64_t turn = 1; turn <= 80; ++turn) {
    const auto pick = PickWorker(workers, 32000);
    WorkerCandidate& w = workers[pick->worker];
    EXPECT_EQ(pick->reason, PickReason::kCold);
    w.last_pick = turn;
    ++w.n_streams;
    w.n_tokens_queued += 32000;
  }
  for (const WorkerCandidate& w : workers) EXPECT_EQ(w.n_streams, 10u);
}

TEST(PickWorker, WithoutRoomIsNotPickedButMayBeWorthTheWait) {
  auto workers = Idle(2);
  workers[0].n_usable_prefix = 30000;
  workers[0].has_room = false;
  workers[0].n_streams = 16;
  EXPECT_EQ(PickWorker(workers, 32000)->worker, 1u);
  EXPECT_FALSE(PickWorker(workers, PickTerms{.n_prompt_tokens = 32000, .may_wait = true}).has_value());
  workers[0].n_usable_prefix = 1000;
  EXPECT_EQ(PickWorker(workers, PickTerms{.n_prompt_tokens = 32000, .may_wait = true})->worker, 1u);
}

TEST(PickWorker, PrefixesThatAreAlikeCountAlike) {
  auto workers = Idle(2);
  workers[0].n_usable_prefix = 2048;
  workers[0].last_pick = 1;
  EXPECT_EQ(PickWorker(workers, 32000)->worker, 1u) << "what is saved is little, and the other one's turn";
  workers[0].n_usable_prefix = 8192;
  EXPECT_EQ(PickWorker(workers, 32000)->worker, 0u);
}

TEST(PickWorker, AmongEqualsAffinityDecides) {
  auto workers = Idle(3);
  workers[0].affinity = 3;
  workers[1].affinity = 9;
  workers[2].affinity = 4;
  workers[1].last_pick = 100;
  EXPECT_EQ(PickWorker(workers, 100)->worker, 1u);
  workers[1].n_streams = 1;
  EXPECT_EQ(PickWorker(workers, 100)->worker, 2u);
}

TEST(AffinityRank, MovesOnlyWhatAWorkerHadWhenItGoes) {
  const auto home = [](int session, int n_workers) {
    int best = 0;
    for (int w = 1; w < n_workers; ++w) {
      const auto rank = [&](int of) { return AffinityRank("s" + std::to_string(session), "w" + std::to_string(of)); };
      if (rank(w) > rank(best)) best = w;
    }
    return best;
  };
  std::vector<int> n_at(8);
  for (int session = 0; session < 800; ++session) {
    const int before = home(session, 8);
    ++n_at[static_cast<size_t>(before)];
    EXPECT_TRUE(before == 7 || home(session, 7) == before);
  }
  for (const int n : n_at) EXPECT_NEAR(n, 100, 40);
}

}  // namespace
}  // namespace longshelf::router
