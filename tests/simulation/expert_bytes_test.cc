#include "simulation/expert_bytes.h"

#include <gtest/gtest.h>

namespace longshelf::simulation {
namespace {

// Flash: 256 experts, 6 for a token; FP8 rows with a scale for each 128, BF16 results.
constexpr ExpertShape kFlash = {.n_experts = 256, .n_per_token = 6, .row_bytes = 4096 + 32, .result_bytes = 8192};

TEST(ExpertBytes, AreThoseOfTheTableThatWasWorkedOutByHand) {
  struct Row {
    int n_ranks;
    double destinations;
    double pairs;
    double combine_kib;
  };
  for (const Row row : {Row{2, 0.98, 3.0, 24}, Row{4, 2.47, 4.5, 36}, Row{8, 3.86, 5.25, 42}, Row{16, 4.82, 5.62, 45},
                        Row{32, 5.38, 5.81, 46.5}}) {
    const ExpertBytes bytes = MinimumBetweenRanks({.n_ranks = row.n_ranks}, kFlash);
    // The table is of independent choices; experts are distinct, so a row reaches slightly more ranks.
    EXPECT_NEAR(bytes.destinations, row.destinations, 0.012 * row.destinations) << row.n_ranks;
    EXPECT_GE(bytes.destinations, row.destinations - 0.005);
    EXPECT_NEAR(bytes.remote_pairs, row.pairs, 0.006);
    EXPECT_NEAR(bytes.combine_bytes / 1024, row.combine_kib, 0.06);
  }
}

TEST(ExpertBytes, OfTwoExpertsOfFourOnTwoRanksAreExact) {
  // The other rank has 2 of 4 experts: none of two distinct choices is there with 2/4 * 1/3.
  const ExpertShape shape = {.n_experts = 4, .n_per_token = 2, .row_bytes = 60, .result_bytes = 100};
  const ExpertBytes bytes = MinimumBetweenRanks({.n_ranks = 2}, shape);
  EXPECT_DOUBLE_EQ(bytes.destinations, 5.0 / 6);
  EXPECT_DOUBLE_EQ(bytes.remote_pairs, 1);
  EXPECT_DOUBLE_EQ(bytes.dispatch_bytes, 50 + 8);
  EXPECT_DOUBLE_EQ(bytes.combine_bytes, 100);
}

TEST(ExpertBytes, BetweenHostsARowCrossesOnce) {
  const Cluster cluster = {.n_ranks = 8, .n_hosts = 2};
  const ExpertBytes between_hosts = MinimumBetweenHosts(cluster, kFlash);
  const ExpertBytes of_two_ranks = MinimumBetweenRanks({.n_ranks = 2}, kFlash);
  EXPECT_DOUBLE_EQ(between_hosts.total_bytes(), of_two_ranks.total_bytes());
  EXPECT_LT(between_hosts.total_bytes(), MinimumBetweenRanks(cluster, kFlash).total_bytes());
  EXPECT_EQ(MinimumBetweenHosts({.n_ranks = 4, .n_hosts = 1}, kFlash).total_bytes(), 0);
}

TEST(ExpertBytes, WithExpertsThatDoNotDivideAllPairsAreStillCounted) {
  const ExpertBytes bytes = MinimumBetweenRanks({.n_ranks = 3}, {.n_experts = 7, .n_per_token = 2});
  // Each rank r has n of 7 experts: the mean over homes of 2 * (7 - n) / 7.
  EXPECT_DOUBLE_EQ(bytes.remote_pairs, 2.0 * (5 + 5 + 4) / 7 / 3);
}

TEST(ExpertBytes, OfMessagesAreWholeLines) {
  // Header, two rows of 4128 in 65 lines, entries of two tokens and five pairs.
  EXPECT_EQ(DispatchMessageBytes(kFlash, 2, 5), 64 + 2 * 4160 + 64);
  EXPECT_EQ(DispatchMessageBytes(kFlash, 0, 0), 64);
  EXPECT_EQ(CombineMessageBytes(kFlash, 5), 64 + 5 * 8192);
  ExpertShape each = kFlash;
  each.once_per_destination = false;
  EXPECT_EQ(DispatchMessageBytes(each, 2, 5), 64 + 5 * 4160 + 64);
}

}  // namespace
}  // namespace longshelf::simulation
