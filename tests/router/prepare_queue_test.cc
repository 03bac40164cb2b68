#include "router/prepare_queue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace longshelf::router {
namespace {

constexpr uint64_t kSmall = 1000;
constexpr uint64_t kLarge = uint64_t{15} << 20;

class PrepareQueueTest : public ::testing::Test {
 protected:
  bool Push(PrepareQueue& queue, const std::string& payer, uint64_t n_bytes) {
    return queue.Push({payer, n_bytes, nullptr, nullptr});
  }
  // Whose is next and how large, in KiB; "" when nothing may run.
  std::string Pop(PrepareQueue& queue) {
    const auto job = queue.Pop();
    return job ? job->payer + std::to_string(job->n_bytes >> 10) : "";
  }
};

TEST_F(PrepareQueueTest, SmallOnesPassLargeOnesWhoeverSentThem) {
  PrepareQueue queue({.n_threads = 2});
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(Push(queue, "a", kLarge));
  EXPECT_EQ(Pop(queue), "a15360");
  EXPECT_EQ(Pop(queue), "") << "the other thread is for small ones";
  EXPECT_TRUE(Push(queue, "a", kSmall));
  EXPECT_TRUE(Push(queue, "b", kSmall));
  EXPECT_EQ(Pop(queue), "a0");
  EXPECT_EQ(Pop(queue), "b0");
  queue.OnDone(kLarge);
  EXPECT_TRUE(Push(queue, "b", kSmall));
  EXPECT_EQ(Pop(queue), "a15360") << "of the large ones, one always runs";
  EXPECT_EQ(Pop(queue), "b0");
}

TEST_F(PrepareQueueTest, PayersTakeTurnsByBytes) {
  PrepareQueue queue({.n_threads = 2});
  for (int i = 0; i < 4; ++i) Push(queue, "a", uint64_t{4} << 20);
  for (int i = 0; i < 4; ++i) Push(queue, "b", uint64_t{1} << 20);
  std::string order;
  for (int i = 0; i < 8; ++i) {
    const auto job = queue.Pop();
    order += job->payer;
    queue.OnDone(job->n_bytes);
  }
  EXPECT_EQ(order, "abbbbaaa");
}

TEST_F(PrepareQueueTest, OfOnePayerTheShortestIsFirstButNoneWaitsForEver) {
  PrepareQueue queue({.n_threads = 2});
  constexpr uint64_t kLonger = uint64_t{1} << 20;
  constexpr uint64_t kShorter = uint64_t{128} << 10;
  Push(queue, "a", kLonger);
  int n_passed = 0;
  for (;; ++n_passed) {
    Push(queue, "a", kShorter);
    const auto job = queue.Pop();
    queue.OnDone(job->n_bytes);
    if (job->n_bytes == kLonger) break;
    ASSERT_LT(n_passed, 100);
  }
  EXPECT_EQ(n_passed, 13);
}

TEST_F(PrepareQueueTest, ManyThreadsPrepareNoMoreBytesAtOnceThanTheyMay) {
  PrepareQueue queue({.n_threads = 8, .n_running_bytes_max = 2 * kLarge});
  for (int i = 0; i < 8; ++i) Push(queue, std::to_string(i), kLarge);
  EXPECT_NE(Pop(queue), "");
  EXPECT_NE(Pop(queue), "");
  EXPECT_EQ(Pop(queue), "");
  queue.OnDone(kLarge);
  EXPECT_NE(Pop(queue), "");
  PrepareQueue narrow({.n_threads = 8, .n_running_bytes_max = 1});
  Push(narrow, "a", kLarge);
  EXPECT_NE(Pop(narrow), "") << "one alone may always run";
}

TEST_F(PrepareQueueTest, ASingleThreadTakesTurnsBetweenSmallAndLarge) {
  PrepareQueue queue({.n_threads = 1});
  Push(queue, "a", kLarge);
  int n_small = 0;
  for (;; ++n_small) {
    Push(queue, "b", kSmall);
    if (Pop(queue)[0] == 'a') break;
    ASSERT_LT(n_small, 100);
  }
  EXPECT_EQ(n_small, 16);
}

TEST_F(PrepareQueueTest, ThereIsAlwaysRoomForThoseWhoHaveLittle) {
  PrepareQueue queue({.n_waiting_max = 100});
  int n_taken = 0;
  while (Push(queue, "a", kSmall)) ++n_taken;
  EXPECT_EQ(n_taken, 50);
  EXPECT_TRUE(Push(queue, "b", kSmall));
  EXPECT_TRUE(Push(queue, "c", kLarge));
}

}  // namespace
}  // namespace longshelf::router
