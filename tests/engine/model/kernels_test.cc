#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "elementary.h"
#include "select.h"
#include "self_test.h"
#include "tables.h"

// Every table of this machine against the portable one, and the self-test against tables that are wrong.
namespace longshelf::engine {
namespace {

constexpr int64_t kCases = 3000;

TEST(Kernels, EveryTableOfThisMachineComputesThePortableBits) {
  for (const CheckedTable& checked : CheckedTables()) {
    EXPECT_EQ(checked.difference, "") << checked.table.name;
    for (const uint64_t seed : {2U}) EXPECT_EQ(SelfTest(checked.table, kCases, seed), "") << checked.table.name;
  }
}

TEST(Kernels, TheBestTableIsChosenAndNamesAreKnown) {
  ASSERT_NE(FindKernels(""), nullptr);
  EXPECT_STREQ(FindKernels("")->name, CheckedTables().front().table.name);
  EXPECT_NE(FindKernels("portable"), nullptr);
  EXPECT_EQ(FindKernels("neon"), nullptr);
}

// Wrong in one lane, by one bit, now and then: what a processor that deviates from its manual would do.
void DotWithOneWrongBit(const DotJob& job, std::byte* scratch) {
  PortableKernels().dot(job, scratch);
  uint32_t bits;
  __builtin_memcpy(&bits, job.y, sizeof bits);
  if (bits % 7 == 0) bits ^= 1U;
  __builtin_memcpy(job.y, &bits, sizeof bits);
}
float SumWithoutFusing(const float* x, int64_t n) {
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}
void RoundTowardsZero(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0xFFFF0000U;
    __builtin_memcpy(x + i, &bits, sizeof bits);
  }
}

TEST(Kernels, TheSelfTestFindsATableThatDiffers) {
  KernelTable wrong = PortableTable();
  wrong.dot = &DotWithOneWrongBit;
  EXPECT_NE(SelfTest(wrong, kStartCases).find("dot differs"), std::string::npos);
  wrong = PortableTable();
  wrong.sum_squares = &SumWithoutFusing;
  EXPECT_NE(SelfTest(wrong, kStartCases).find("sum_squares differs"), std::string::npos);
  wrong = PortableTable();
  wrong.round_row = &RoundTowardsZero;
  EXPECT_NE(SelfTest(wrong, kStartCases).find("round_row differs"), std::string::npos);
}

TEST(Elementary, AgreesWithDoublePrecision) {
  for (int i = -4000; i <= 4000; ++i) {
    const float x = static_cast<float>(i) * 0.005F;
    EXPECT_NEAR(ExpFp32(x) / std::exp(static_cast<double>(x)), 1.0, 2e-7) << x;
    const double softplus = std::log1p(std::exp(static_cast<double>(x)));
    EXPECT_NEAR(Softplus(x) / softplus, 1.0, 7e-8) << x;
  }
  for (int64_t position = 0; position < 1048576; position += 997) {
    for (const float frequency : {1.0F, 0.37F, 0.0113F}) {
      const float angle = static_cast<float>(position) * frequency;
      float cosine;
      float sine;
      CosSin(angle, &cosine, &sine);
      EXPECT_NEAR(cosine, std::cos(static_cast<double>(angle)), 6e-8) << angle;
      EXPECT_NEAR(sine, std::sin(static_cast<double>(angle)), 6e-8) << angle;
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
