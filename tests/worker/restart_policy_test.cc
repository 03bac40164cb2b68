#include "restart_policy.h"

#include <gtest/gtest.h>

namespace longshelf::worker {
namespace {

const RestartOptions kOptions = {.delay_min = absl::Milliseconds(200),
                                 .delay_max = absl::Seconds(1),
                                 .sound_after = absl::Seconds(10),
                                 .failed_starts_max = 3};

TEST(RestartPolicy, TheWaitDoublesUpToItsLimitWhileGroupsBreakSoon) {
  RestartPolicy policy(kOptions);
  EXPECT_EQ(policy.AfterEnd(absl::Seconds(1)), absl::Milliseconds(200));
  EXPECT_EQ(policy.AfterEnd(absl::Seconds(1)), absl::Milliseconds(400));
  EXPECT_EQ(policy.AfterEnd(absl::Seconds(1)), absl::Milliseconds(800));
  EXPECT_EQ(policy.AfterEnd(absl::Seconds(1)), absl::Seconds(1));
  EXPECT_EQ(policy.AfterEnd(absl::Seconds(1)), absl::Seconds(1));
}

TEST(RestartPolicy, AGroupThatServedLongStartsTheWaitAnew) {
  RestartPolicy policy(kOptions);
  for (int i = 0; i < 4; ++i) policy.AfterEnd(absl::Seconds(1));
  EXPECT_EQ(policy.AfterEnd(absl::Seconds(11)), absl::Milliseconds(200));
}

TEST(RestartPolicy, GivesUpAfterStartsInARowThatNeverServed) {
  RestartPolicy policy(kOptions);
  EXPECT_TRUE(policy.AfterEnd(std::nullopt).has_value());
  EXPECT_TRUE(policy.AfterEnd(std::nullopt).has_value());
  EXPECT_TRUE(policy.AfterEnd(absl::Seconds(1)).has_value());
  EXPECT_TRUE(policy.AfterEnd(std::nullopt).has_value());
  EXPECT_TRUE(policy.AfterEnd(std::nullopt).has_value());
  EXPECT_FALSE(policy.AfterEnd(std::nullopt).has_value());
}

}  // namespace
}  // namespace longshelf::worker
