#include "logits_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "changed_vectors.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

// n rows without error, the first `count` of them with these figures.
LogitFigures Figures(int64_t n, int64_t count, double rel, double kl = 0.0) {
  LogitFigures figures;
  figures.rel.assign(static_cast<size_t>(n), 0.0);
  figures.kl.assign(static_cast<size_t>(n), 0.0);
  std::fill_n(figures.rel.begin(), count, rel);
  std::fill_n(figures.kl.begin(), count, kl);
  figures.top1_equal.assign(static_cast<size_t>(n), true);
  return figures;
}

// Names of the checks that failed, one after another.
template <typename Judge>
std::string Failures(const Judge& judge) {
  std::ostringstream out;
  Report report(out);
  judge(report);
  std::istringstream lines(out.str());
  std::string failed;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("FAIL  ")) failed += line.substr(6, line.find("  ", 6) - 6) + ";";
  }
  return failed;
}

std::string Fp32Failures(const LogitFigures& figures) {
  return Failures([&](Report& r) { JudgeFp32("l", figures, r); });
}

TEST(LogitsRules, Fp32HasAMedianATailAndATop1) {
  EXPECT_EQ(Fp32Failures(Figures(200, 200, 1e-5)), "");
  EXPECT_EQ(Fp32Failures(Figures(200, 101, 1.1e-5)), "l median rel;");
  EXPECT_EQ(Fp32Failures(Figures(200, 2, 2.1e-3)), "");
  EXPECT_EQ(Fp32Failures(Figures(200, 3, 2.1e-3)), "l rows with rel <= 2e-3;");
  LogitFigures figures = Figures(200, 0, 0.0);
  figures.top1_equal[7] = false;
  EXPECT_EQ(Fp32Failures(figures), "") << "one of 200";
  figures.top1_equal[8] = false;
  EXPECT_EQ(Fp32Failures(figures), "l top-1 equal;");
}

TEST(LogitsRules, AShortNativeFileIsJudgedRowByRow) {
  const auto failures = [](std::vector<double> rel) {
    LogitFigures figures = Figures(3, 0, 0.0);
    figures.rel = std::move(rel);
    return Failures([&](Report& r) { JudgeShortNative("l", figures, std::vector<double>{1e-7, 1e-2, 4e-4}, r); });
  };
  EXPECT_EQ(failures({1e-3, 2.99e-2, 1.19e-3}), "");
  EXPECT_EQ(failures({1.01e-3, 0.0, 0.0}), "l row 0 rel;") << "never less than 1e-3";
  EXPECT_EQ(failures({0.0, 3.01e-2, 0.0}), "l row 1 rel;");
  EXPECT_EQ(failures({0.0, 0.0, 1.21e-3}), "l row 2 rel;");
  EXPECT_EQ(failures({HUGE_VAL, 0.0, 0.0}), "l row 0 rel;");
}

TEST(LogitsRules, ALongNativeFileIsJudgedByItsFloor) {
  const auto failures = [](const LogitFigures& figures) {
    return Failures([&](Report& r) { JudgeLongNative("l", figures, NoiseFloor{1e-2, 5e-2}, r); });
  };
  EXPECT_EQ(failures(Figures(100, 100, 0.0999, 0.0299)), "");
  EXPECT_EQ(failures(Figures(100, 100, 0.0999, 0.0301)), "l mean KL;");
  EXPECT_EQ(failures(Figures(100, 100, 0.1001, 0.0299)), "l median rel;");
  EXPECT_EQ(failures(Figures(100, 49, 0.9, 0.0299)), "") << "the median does not see a tail";
}

TEST(LogitsRules, FiguresOfRowsOfLogits) {
  const std::vector<float> reference = {0.0F, 1.0F, 2.0F, 2.0F, 1.0F, 0.0F};
  const LogitFigures same = CompareLogits(reference, reference, 3);
  EXPECT_EQ(same.CountTop1Equal(), 2);
  EXPECT_EQ(same.rel, (std::vector<double>{0.0, 0.0}));
  // A constant changes the row and not the distribution; swapped ends change both.
  const LogitFigures changed = CompareLogits(std::vector<float>{1.0F, 2.0F, 3.0F, 0.0F, 1.0F, 2.0F}, reference, 3);
  EXPECT_NEAR(changed.rel[0], std::sqrt(3.0 / 5.0), 1e-12);
  EXPECT_NEAR(changed.kl[0], 0.0, 1e-12);
  const double sum = 1.0 + std::exp(1.0) + std::exp(2.0);
  EXPECT_NEAR(changed.kl[1], 2.0 * (std::exp(2.0) - 1.0) / sum, 1e-12);
  EXPECT_EQ(changed.CountTop1Equal(), 1);
}

TEST(LogitsRules, AFloorMustBeThereFiniteAndOfAsManyRows) {
  const auto rows_of = [](const std::string& floors) {
    ChangedVectors changed(testing::FixturePath("vectors/micro-odd.m1.3.safetensors"));
    return ReadRowFloors(*Vectors::Open(changed.SetMetadata("floor_rel_rows", floors).Write()), "floor_", 3);
  };
  const auto good = rows_of("1.6e-02 0 2.1e-02");
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_THAT(*good, ::testing::ElementsAre(1.6e-2, 0.0, 2.1e-2));
  for (const char* wrong :
       {"", "1e-2 1e-2", "1e-2 1e-2 1e-2 1e-2", "1e-2 x 1e-2", "1e-2 inf 1e-2", "1e-2 nan 1e-2", "1e-2 -1e-2 1e-2"}) {
    EXPECT_EQ(rows_of(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
  const auto floor_of = [](const char* key, const std::string& value) {
    ChangedVectors changed(testing::FixturePath("vectors/micro-odd.m1.129.safetensors"));
    return ReadNoiseFloor(*Vectors::Open(changed.SetMetadata(key, value).Write()), "floor_").status().code();
  };
  EXPECT_EQ(floor_of("floor_kl_mean", "1e-3"), absl::StatusCode::kOk);
  EXPECT_EQ(floor_of("floor_kl_mean", ""), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(floor_of("floor_rel_median", "inf"), absl::StatusCode::kInvalidArgument);
}

TEST(LogitsRules, FloorsOfADraftModuleHaveKeysOfTheirOwn) {
  ChangedVectors changed(testing::FixturePath("vectors/micro-odd.m1.3.safetensors"));
  changed.SetMetadata("floor_draft_rel_rows", "5.5e-02 4.2e-02").SetMetadata("floor_draft_kl_mean", "3e-3");
  changed.SetMetadata("floor_draft_rel_median", "4e-2");
  const auto vectors = Vectors::Open(changed.Write());
  ASSERT_TRUE(vectors.ok()) << vectors.status();
  const auto rows = ReadRowFloors(*vectors, "floor_draft_", 2);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_THAT(*rows, ::testing::ElementsAre(5.5e-2, 4.2e-2));
  const auto floor = ReadNoiseFloor(*vectors, "floor_draft_");
  ASSERT_TRUE(floor.ok()) << floor.status();
  EXPECT_EQ(floor->kl_mean, 3e-3);
  EXPECT_EQ(floor->rel_median, 4e-2);
}

}  // namespace
}  // namespace longshelf::engine
