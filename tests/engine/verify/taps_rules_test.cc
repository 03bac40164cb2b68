#include "taps_rules.h"

#include <gtest/gtest.h>

#include <sstream>
#include <vector>

namespace longshelf::engine {
namespace {

// n rows, all equal but those given as (row, relative error).
RowComparison Rows(int64_t n, const std::vector<std::pair<int64_t, double>>& differing = {}) {
  RowComparison rows;
  rows.equal.assign(static_cast<size_t>(n), true);
  rows.rel.assign(static_cast<size_t>(n), 0.0);
  for (const auto& [row, rel] : differing) {
    rows.equal[static_cast<size_t>(row)] = false;
    rows.rel[static_cast<size_t>(row)] = rel;
  }
  return rows;
}

RowComparison FirstDiffer(int64_t n, int64_t count, double rel) {
  std::vector<std::pair<int64_t, double>> differing;
  for (int64_t i = 0; i < count; ++i) differing.push_back({i, rel});
  return Rows(n, differing);
}

template <typename Judge>
bool Passes(const Judge& judge) {
  std::ostringstream out;
  Report report(out);
  judge(report);
  return report.all_passed();
}

bool CachePasses(std::string_view tensor, int64_t n, int64_t differing, double rel) {
  return Passes([&](Report& r) { JudgeCache("c", FirstDiffer(n, differing, rel), RuleOfCache(tensor), r); });
}

TEST(TapsRules, CacheRowsMayDifferByShareAndByHowMuch) {
  EXPECT_TRUE(CachePasses("window", 128, 3, 0.05));
  EXPECT_FALSE(CachePasses("window", 128, 4, 0.01));
  EXPECT_FALSE(CachePasses("rows", 268, 1, 0.051));
  EXPECT_TRUE(CachePasses("entries", 67, 13, 0.05));
  EXPECT_FALSE(CachePasses("entries", 67, 14, 0.01));
  EXPECT_TRUE(CachePasses("entries", 2, 2, 0.05)) << "two rows always may";
  EXPECT_TRUE(CachePasses("index_keys", 67, 6, 0.15));
  EXPECT_FALSE(CachePasses("index_keys", 67, 7, 0.15));
}

StoredRows Stored(int ratio) {
  StoredRows stored;
  stored.rows = Rows(268);
  stored.entries = ratio == 0 ? Rows(0) : Rows(268 / ratio);
  stored.index_keys = ratio == 4 ? Rows(67) : Rows(0);
  stored.ratio = ratio;
  return stored;
}

TEST(TapsRules, APositionIsCleanWhenAllThatItSeesIsEqual) {
  StoredRows stored = Stored(4);
  stored.entries = Rows(67, {{5, 0.01}});
  EXPECT_TRUE(stored.SeesOnlyEqual(22));
  EXPECT_FALSE(stored.SeesOnlyEqual(23)) << "entry 5 is seen by the token that completes it";
  stored = Stored(0);
  stored.rows = Rows(268, {{10, 0.01}});
  EXPECT_FALSE(stored.SeesOnlyEqual(10));
  EXPECT_FALSE(stored.SeesOnlyEqual(137));
  EXPECT_TRUE(stored.SeesOnlyEqual(138)) << "row 10 has left the window";
}

TEST(TapsRules, CleanPositionsMustAgreeAndBeEnough) {
  const StoredRows stored = Stored(0);
  std::ostringstream out;
  Report report(out);
  EXPECT_TRUE(JudgeCleanPositions("l", FirstDiffer(268, 25, 4e-4), stored, report));
  EXPECT_TRUE(report.all_passed()) << "25 of 128 away";
  EXPECT_TRUE(JudgeCleanPositions("l", FirstDiffer(268, 26, 4e-4), stored, report));
  EXPECT_FALSE(report.all_passed()) << "26 of 128 are more than 20 %";
  StoredRows few = Stored(0);
  few.rows = Rows(268, {{23, 0.01}});
  EXPECT_FALSE(JudgeCleanPositions("l", Rows(268), few, report)) << "23 positions are too few";
}

TEST(TapsRules, AllPositionsHaveAMedianATailAndAMaximum) {
  const auto passes = [](const RowComparison& rows) {
    return Passes([&](Report& r) { JudgeAllPositions("l", rows, "", r); });
  };
  EXPECT_TRUE(passes(FirstDiffer(100, 100, 0.02)));
  EXPECT_FALSE(passes(FirstDiffer(100, 60, 0.021)));
  EXPECT_TRUE(passes(FirstDiffer(100, 3, 0.5)));
  EXPECT_FALSE(passes(FirstDiffer(100, 4, 0.061)));
  EXPECT_FALSE(passes(FirstDiffer(100, 1, 0.61)));
}

TEST(TapsRules, TheIndexerMayChooseOtherwiseAtTwoPositions) {
  StoredRows stored = Stored(4);
  std::vector<std::vector<int64_t>> reference(268, {0, 1});
  for (int64_t wrong = 1; wrong <= 4; ++wrong) {
    auto ours = reference;
    for (int64_t i = 0; i < wrong; ++i) ours[static_cast<size_t>(100 + i)] = {0, 2};
    // 256 positions see more than two entries: 2 % of them are 5.
    EXPECT_TRUE(Passes([&](Report& r) { JudgeIndexer("i", ours, reference, stored, 2, r); }));
    // Only 8 see more than 64.
    for (int64_t i = 0; i < wrong; ++i) ours[static_cast<size_t>(260 + i)] = {0, 2};
    EXPECT_EQ(Passes([&](Report& r) { JudgeIndexer("i", ours, reference, stored, 64, r); }), wrong <= 2);
  }
  auto repeated = reference;
  for (int64_t p = 260; p < 263; ++p) repeated[static_cast<size_t>(p)] = {0, 1, 1};
  EXPECT_FALSE(Passes([&](Report& r) { JudgeIndexer("i", repeated, reference, stored, 64, r); }))
      << "an entry twice is not the same entries";
  for (auto& entries : repeated) entries = {1, 0};
  EXPECT_TRUE(Passes([&](Report& r) { JudgeIndexer("i", repeated, reference, stored, 2, r); })) << "in any order";
}

TEST(TapsRules, AnIndexerOfWhichNothingCanBeSaidIsNotJudged) {
  StoredRows stored = Stored(4);
  stored.index_keys = Rows(67, {{0, 0.1}});
  const std::vector<std::vector<int64_t>> entries(268, {3});
  std::ostringstream out;
  Report report(out);
  JudgeIndexer("i", entries, entries, stored, 2, report);
  EXPECT_EQ(out.str(), "NOT JUDGED  i  no position sees more than 2 entries, all with bit-equal index keys\n");
}

TEST(TapsRules, AThirdOfTheLayersMustHaveCleanPositions) {
  const auto passes = [](int64_t n_judged, int64_t n_layers) {
    return Passes([&](Report& r) { JudgeCleanLayers(n_judged, n_layers, r); });
  };
  EXPECT_TRUE(passes(2, 6));
  EXPECT_FALSE(passes(1, 6));
  EXPECT_FALSE(passes(1, 4)) << "a third of four is more than one";
  EXPECT_FALSE(passes(0, 1));
}

TEST(TapsRules, TheHeadAgreesOnMostRows) {
  const auto passes = [](const RowComparison& rows) {
    return Passes([&](Report& r) { JudgeHead("head alone", rows, r); });
  };
  EXPECT_TRUE(passes(FirstDiffer(100, 20, 1e-2)));
  EXPECT_FALSE(passes(FirstDiffer(100, 21, 1e-4)));
  EXPECT_FALSE(passes(FirstDiffer(100, 1, 1.1e-2)));
}

}  // namespace
}  // namespace longshelf::engine
