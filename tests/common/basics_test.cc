#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "common/check.h"
#include "common/clock.h"
#include "common/mailbox.h"
#include "common/status.h"

namespace longshelf {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Mailbox, HandsOverEverythingInOrderAtOnce) {
  Mailbox<int> box(8);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(box.Post(int{i}));
  EXPECT_THAT(box.Drain(milliseconds(0)), ElementsAre(0, 1, 2));
  EXPECT_THAT(box.Drain(milliseconds(0)), IsEmpty());
}

TEST(Mailbox, RefusesAMessageWhenFullAndLeavesItWithTheSender) {
  Mailbox<std::unique_ptr<int>> box(1);
  EXPECT_TRUE(box.Post(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(box.Post(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, 2);
}

TEST(Mailbox, StillHandsOverWhatItHoldsAfterClosing) {
  Mailbox<int> box(8);
  EXPECT_TRUE(box.Post(1));
  box.Close();
  EXPECT_FALSE(box.Post(2));
  EXPECT_THAT(box.Drain(milliseconds(1000)), ElementsAre(1));
  EXPECT_THAT(box.Drain(milliseconds(1'000'000)), IsEmpty());  // does not wait: nothing can come
}

TEST(Mailbox, WakesAWaitingConsumer) {
  Mailbox<int> box(1);
  std::thread sender([&] { EXPECT_TRUE(box.Post(5)); });
  EXPECT_THAT(box.Drain(milliseconds(1'000'000)), ElementsAre(5));
  sender.join();
}

TEST(ManualClock, MovesOnlyWhenTold) {
  ManualClock clock;
  const absl::Time before = clock.Now();
  EXPECT_EQ(clock.Now(), before);
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(clock.Now() - before, absl::Seconds(3));
}

TEST(SystemClock, NeverGoesBack) {
  const SystemClock clock;
  const absl::Time before = clock.Now();
  EXPECT_GE(clock.Now(), before);
}

absl::StatusOr<int> Half(int n) {
  if (n % 2 != 0) return absl::InvalidArgumentError("odd");
  return n / 2;
}
absl::StatusOr<int> Quarter(int n) {
  ASSIGN_OR_RETURN(const int half, Half(n));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusMacros, PassFailuresUpAndValuesOn) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_EQ(Annotate(Quarter(6).status(), "block 7").message(), "block 7: odd");
  EXPECT_EQ(Annotate(Quarter(6).status(), "block 7").code(), absl::StatusCode::kInvalidArgument);
}

TEST(CheckDeathTest, AbortsWithTheConditionInReleaseToo) {
  EXPECT_DEATH(LONGSHELF_CHECK(1 + 1 == 3), "basics_test.cc:.*1 \\+ 1 == 3");
}

}  // namespace
}  // namespace longshelf
