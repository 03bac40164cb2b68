#include "engine/placement/plan_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace longshelf::engine {
namespace {

using ::testing::ElementsAre;

std::vector<uint32_t> Distinct(size_t n) {
  std::vector<uint32_t> out(n);
  std::iota(out.begin(), out.end(), 0U);
  return out;
}

TEST(PackBalanced, TheHeaviestGoFirstIntoTheLightestBinAndEveryBinGetsItsShare) {
  const std::vector<double> weights = {1, 2, 3, 4, 5, 6};
  // 6 | 5 | 5+4 is not allowed to grow before all have two.
  EXPECT_THAT(PackBalanced(weights, Distinct(6), 3), ElementsAre(0, 1, 2, 2, 1, 0));
}

TEST(PackBalanced, BinsDifferByAtMostOneItemWhenTheyDoNotDivideThem) {
  std::mt19937_64 random(7);
  for (int n = 0; n < 500; ++n) {
    const auto n_bins = static_cast<int>(1 + random() % 8);
    const size_t n_items = random() % 40;
    std::vector<double> weights(n_items);
    for (double& w : weights) w = static_cast<double>(random() % 1000);
    std::vector<size_t> sizes(static_cast<size_t>(n_bins));
    for (const int b : PackBalanced(weights, Distinct(n_items), n_bins)) ++sizes[static_cast<size_t>(b)];
    const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
    EXPECT_LE(*most - *least, 1U);
    EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), size_t{0}), n_items);
  }
}

TEST(PackBalanced, CopiesOfOneKindLieApart) {
  const std::vector<double> weights = {4, 4, 1, 1, 1, 1};
  const std::vector<uint32_t> kinds = {0, 0, 1, 2, 3, 4};
  const std::vector<int> bins = PackBalanced(weights, kinds, 2);
  EXPECT_NE(bins[0], bins[1]);
}

TEST(CountReplicas, EveryCopyIsOfTheExpertWithMostRowsForEach) {
  const std::vector<uint64_t> rows = {100, 40, 60, 10};
  // 100 -> 50; 60 -> 30; 50 -> 33.3.
  EXPECT_THAT(CountReplicas(rows, 0, 8), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(CountReplicas(rows, 1, 8), ElementsAre(2, 1, 1, 1));
  EXPECT_THAT(CountReplicas(rows, 3, 8), ElementsAre(3, 1, 2, 1));
}

TEST(CountReplicas, NoExpertHasMoreCopiesThanThereAreShards) {
  const std::vector<uint64_t> rows = {100, 1};
  EXPECT_THAT(CountReplicas(rows, 64, 3), ElementsAre(3, 3));
}

ExpertLoads Skewed(uint32_t n_layers, uint32_t n_experts, uint64_t seed) {
  std::mt19937_64 random(seed);
  ExpertLoads loads(n_layers, n_experts);
  for (uint32_t l = 0; l < n_layers; ++l) {
    for (uint32_t e = 0; e < n_experts; ++e) {
      const uint64_t n = 1 + 1000 / (1 + random() % n_experts);
      const std::vector<ExpertAssignment> rows(n, ExpertAssignment{0, e, 1.0F});
      loads.Add(random() % 2 == 0 ? StepPhase::kDecode : StepPhase::kPrefill, l, rows);
    }
  }
  return loads;
}

TEST(PlanPlacement, BalancesSkewedLoadsAndCopiesBalanceThemFurther) {
  for (const int n_ranks : {2, 3, 4, 8}) {
    const ExpertLoads loads = Skewed(5, 67, 11);
    const auto even = ExpertPlacement::Even(5, 67, n_ranks);
    const double before = PredictSlowest(even, loads);
    const double packed = PredictSlowest(PlanPlacement(loads, 0, even), loads);
    const double copied = PredictSlowest(PlanPlacement(loads, 8, even), loads);
    EXPECT_LT(packed, before) << n_ranks;
    EXPECT_LE(copied, packed) << n_ranks;
    double mean = 0;
    for (uint32_t l = 0; l < 5; ++l) {
      for (uint32_t e = 0; e < 67; ++e) mean += static_cast<double>(loads.rows(l, e)) / n_ranks;
    }
    EXPECT_LT(copied, 1.05 * mean) << n_ranks;
  }
}

TEST(PlanPlacement, WhatIsBalancedStaysWhereItIs) {
  const ExpertLoads loads = Skewed(3, 64, 12);
  const ExpertPlacement once = PlanPlacement(loads, 4, ExpertPlacement::Even(3, 64, 4));
  EXPECT_EQ(PlanPlacement(loads, 4, once), once);
}

TEST(ExpertRoutes, AnExpertIsAskedForHereThenOnThisHostThenAnywhereSpreadByToken) {
  // Expert 0 on all; 1 on 1 and 3; 2 on 2 and 3. Hosts: {0, 1}, {2, 3}.
  const ExpertPlacement placement(1, 3, 4, {{0, 1, 2, 3}, {1, 3}, {2, 3}});
  const std::vector<std::string> host_of = {"a", "a", "b", "b"};
  const ExpertRoutes routes(placement, 0, HostMap(host_of, host_of), 0);
  int n_third = 0;
  for (uint32_t token = 0; token < 1000; ++token) {
    EXPECT_EQ(routes.Choose(0, token), 0);
    EXPECT_EQ(routes.Choose(1, token), 1);
    const int chosen = routes.Choose(2, token);
    EXPECT_TRUE(chosen == 2 || chosen == 3);
    n_third += chosen == 2 ? 1 : 0;
  }
  EXPECT_NEAR(n_third, 500, 60);
  EXPECT_TRUE(routes.Holds(0));
  EXPECT_FALSE(routes.Holds(1));
}

}  // namespace
}  // namespace longshelf::engine
