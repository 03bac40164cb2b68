#include "comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "report.h"

namespace longshelf::engine {
namespace {

TEST(Comparison, RowsAreEqualInEveryBitOrNot) {
  const std::vector<float> reference = {0.0F, 1.0F, 3.0F, 4.0F};
  EXPECT_EQ(CompareRows(reference, reference, 2).CountDiffering(), 0);
  const RowComparison rows = CompareRows(std::vector<float>{-0.0F, 1.0F, 3.0F, 5.0F}, reference, 2);
  EXPECT_EQ(rows.CountDiffering(), 2) << "zeros of either sign are different bits";
  EXPECT_EQ(rows.rel[0], 0.0);
  EXPECT_DOUBLE_EQ(rows.rel[1], 0.2);
}

TEST(Comparison, WhatIsNoNumberIsInfinitelyFar) {
  const std::vector<float> reference = {1.0F};
  for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(RelativeError(std::vector<float>{wrong}, reference), HUGE_VAL);
    EXPECT_EQ(RelativeError(reference, std::vector<float>{wrong}), HUGE_VAL);
  }
  EXPECT_GT(RelativeError(reference, std::vector<float>{0.0F}), 1e100) << "a row of zeros has no size to compare with";
}

TEST(Comparison, AShareThatIsMetExactlyIsMet) {
  for (int64_t n = 100; n <= 10000; n += 100) {
    EXPECT_TRUE(AtLeast(n / 100 * 97, n, 970)) << n;
    EXPECT_FALSE(AtLeast(n / 100 * 97 - 1, n, 970)) << n;
    EXPECT_TRUE(AtMost(n / 100 * 3, n, 30)) << n;
    EXPECT_FALSE(AtMost(n / 100 * 3 + 1, n, 30)) << n;
  }
}

TEST(Comparison, TheMedianOfAnEvenCountLiesBetweenTheMiddleTwo) {
  EXPECT_EQ(Median({3.0, 1.0}), 2.0);
  EXPECT_EQ(Median({3.0, 1.0, 7.0}), 3.0);
  EXPECT_EQ(Median({1.0, HUGE_VAL}), HUGE_VAL);
}

}  // namespace
}  // namespace longshelf::engine
