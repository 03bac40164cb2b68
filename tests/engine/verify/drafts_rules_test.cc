#include "drafts_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <sstream>
#include <vector>

namespace longshelf::engine {
namespace {

// Whether every check passed; at least one was made.
bool Passes(const std::function<void(Report&)>& judge) {
  std::ostringstream out;
  Report report(out);
  judge(report);
  EXPECT_FALSE(out.str().empty());
  return report.all_passed();
}

// n figures, the first `count` of them `value`.
std::vector<double> Figures(size_t n, size_t count, double value) {
  std::vector<double> figures(n, 0.0);
  std::fill_n(figures.begin(), count, value);
  return figures;
}

RowComparison Rows(size_t n, size_t count, double rel) {
  RowComparison rows;
  rows.rel = Figures(n, count, rel);
  for (const double r : rows.rel) rows.equal.push_back(r == 0.0);
  return rows;
}

// n tokens in blocks of five, the first `count` blocks with another last token.
struct Blocks {
  Blocks(size_t n, size_t count) : reference(n, 1), ours(n, 1) {
    for (size_t i = 0; i < count; ++i) ours[5 * i + 4] = 2;
  }
  DraftedTokens tokens() const { return {ours, reference, 5}; }
  std::vector<uint32_t> reference;
  std::vector<uint32_t> ours;
};

TEST(DraftsRules, PlacesAfterAnotherTokenOfTheirBlockAreNotCompared) {
  const std::vector<uint32_t> reference = {1, 2, 3, 4, 5, 6};
  const std::vector<uint32_t> ours = {1, 9, 3, 4, 5, 6};
  const DraftedTokens tokens{ours, reference, 3};
  EXPECT_EQ(tokens.CountEqual(), 5);
  EXPECT_TRUE(tokens.SameBefore(0));
  EXPECT_TRUE(tokens.SameBefore(1)) << "what made the other token";
  EXPECT_FALSE(tokens.SameBefore(2));
  EXPECT_TRUE(tokens.SameBefore(3)) << "the next block";
  const std::vector<float> values = {0.0F, 2.0F, 0.0F, -4.0F, 0.0F, NAN};
  const ConfidenceFigures figures =
      CompareConfidence(std::vector<float>{0.5F, 2.5F, 9.0F, -4.5F, 0.0F, 0.0F}, values, tokens);
  EXPECT_EQ(figures.absolute, (std::vector<double>{0.5, 0.5, 0.5, 0.0, HUGE_VAL}));
  EXPECT_EQ(figures.scaled, (std::vector<double>{0.5, 0.25, 0.125, 0.0, HUGE_VAL}));
}

TEST(DraftsRules, Fp32ConfidencesAgreeOnMostPlacesAndTokensOnAlmostAll) {
  const auto passes = [](size_t n_far, size_t n_other) {
    const Blocks blocks(100, n_other);
    return Passes([&](Report& r) { JudgeDraftFp32({{}, Figures(100, n_far, 1.1e-3)}, blocks.tokens(), r); });
  };
  EXPECT_TRUE(passes(1, 2));
  EXPECT_FALSE(passes(2, 0));
  EXPECT_FALSE(passes(0, 3));
  EXPECT_FALSE(Passes([&](Report& r) { JudgeDraftFp32({}, Blocks(100, 0).tokens(), r); })) << "nothing to compare";
}

TEST(DraftsRules, NativeConfidencesAreWithinTwiceTheFloor) {
  const auto passes = [](const std::vector<double>& absolute, bool is_short) {
    return Passes([&](Report& r) { JudgeDraftNative({absolute, {}}, is_short, 0.01, r); });
  };
  EXPECT_TRUE(passes(Figures(5, 5, 0.02), true));
  EXPECT_FALSE(passes(Figures(5, 1, 0.021), true));
  EXPECT_TRUE(passes(Figures(5, 2, 0.5), false)) << "the median does not see a tail";
  EXPECT_FALSE(passes(Figures(5, 3, 0.021), false));
  EXPECT_FALSE(passes({}, false));
}

TEST(DraftsRules, EveryPartAlone) {
  const auto hidden = [](size_t n) { return Passes([&](Report& r) { JudgeMainHidden(Rows(100, n, 1.0), r); }); };
  EXPECT_TRUE(hidden(5));
  EXPECT_FALSE(hidden(6));
  const auto projection = [](size_t n, double rel) {
    return Passes([&](Report& r) { JudgeProjection("main_x", Rows(100, n, rel), 5e-2, r); });
  };
  EXPECT_TRUE(projection(20, 5e-2));
  EXPECT_FALSE(projection(21, 1e-3));
  EXPECT_FALSE(projection(1, 5.1e-2));
  const auto stage = [](size_t n, double rel) {
    return Passes([&](Report& r) { JudgeStage("s", Rows(100, n, rel), r); });
  };
  EXPECT_TRUE(stage(100, 2e-2));
  EXPECT_TRUE(stage(49, 0.6));
  EXPECT_FALSE(stage(51, 2.1e-2));
  EXPECT_FALSE(stage(1, 0.61));
  const auto chosen = [](size_t n) { return Passes([&](Report& r) { JudgeChosenAlone(Blocks(100, n).tokens(), r); }); };
  EXPECT_TRUE(chosen(5));
  EXPECT_FALSE(chosen(6));
  const auto confidence = [](size_t n, double scaled) {
    return Passes([&](Report& r) { JudgeConfidenceAlone({{}, Figures(100, n, scaled)}, r); });
  };
  EXPECT_TRUE(confidence(20, 2e-2));
  EXPECT_FALSE(confidence(21, 2e-4));
  EXPECT_FALSE(confidence(1, 2.1e-2));
}

}  // namespace
}  // namespace longshelf::engine
