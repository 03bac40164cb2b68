#include "simulation/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <numeric>

namespace longshelf::simulation {
namespace {

constexpr ExpertShape kShape = {.n_experts = 64, .n_per_token = 6, .row_bytes = 64, .result_bytes = 64};

// How often each expert was chosen by `n` tokens.
std::vector<int> Histogram(const std::string& routing, int n) {
  std::mt19937_64 random(1);
  auto sampler = ExpertSampler::Create(*ParseRouting(routing), kShape, random);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  std::vector<int> chosen(64);
  std::array<uint32_t, 6> experts;
  for (int t = 0; t < n; ++t) {
    sampler->Draw(random, experts);
    for (size_t i = 0; i < experts.size(); ++i) {
      EXPECT_TRUE(i == 0 || experts[i - 1] < experts[i]);
      ++chosen[experts[i]];
    }
  }
  return chosen;
}

TEST(Routing, UniformChoosesAllAlike) {
  for (const int n : Histogram("uniform", 10'000)) EXPECT_NEAR(n, 10'000 * 6 / 64.0, 150);
}

TEST(Routing, ZipfHasAFewThatAreWantedMost) {
  std::vector<int> chosen = Histogram("zipf:1.2", 10'000);
  std::sort(chosen.rbegin(), chosen.rend());
  EXPECT_GT(chosen[0], 8 * chosen[32]);
  // Distinct experts: none can be chosen more often than there are tokens.
  EXPECT_LE(chosen[0], 10'000);
}

TEST(Routing, HotExpertsLieTogetherAndGetTheirShare) {
  const std::vector<int> chosen = Histogram("hot:16:0.9", 10'000);
  const int hot = std::accumulate(chosen.begin(), chosen.begin() + 16, 0);
  // A little less than 0.9: whoever is taken cannot be taken again.
  EXPECT_GT(hot, 0.83 * 60'000);
  EXPECT_LT(hot, 0.9 * 60'000);
}

TEST(Routing, RecordedTokensComeInTheirOrder) {
  RoutingSpec spec;
  spec.kind = RoutingSpec::Kind::kRecorded;
  spec.recorded = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15};
  std::mt19937_64 random(1);
  auto sampler = ExpertSampler::Create(spec, kShape, random);
  ASSERT_TRUE(sampler.ok());
  std::array<uint32_t, 6> first;
  std::array<uint32_t, 6> second;
  std::array<uint32_t, 6> third;
  sampler->Draw(random, first);
  sampler->Draw(random, second);
  sampler->Draw(random, third);
  EXPECT_NE(first, second);
  EXPECT_EQ(first, third);
  spec.recorded.back() = 64;
  EXPECT_FALSE(ExpertSampler::Create(spec, kShape, random).ok());
  spec.recorded = {1, 2};
  EXPECT_FALSE(ExpertSampler::Create(spec, kShape, random).ok());
}

TEST(Routing, RefusesWhatItDoesNotKnow) {
  for (const char* bad : {"", "even", "zipf:", "zipf:x", "zipf:-1", "zipf:5", "zipf:nan", "hot:8", "hot:0:0.5",
                          "hot:8:1", "hot:8:0", "hot:8:x", "uniform:1", "hot:1:2:3"}) {
    EXPECT_FALSE(ParseRouting(bad).ok()) << bad;
  }
  std::mt19937_64 random(1);
  EXPECT_FALSE(ExpertSampler::Create(*ParseRouting("hot:64:0.9"), kShape, random).ok());
}

TEST(ExchangeCounts, CountTokensOnceAndPairsEach) {
  const Cluster cluster = {.n_ranks = 4, .n_hosts = 2};
  RoutingSpec spec;
  spec.kind = RoutingSpec::Kind::kRecorded;
  spec.recorded = {0, 1, 15, 16, 48, 63};  // three experts of rank 0, one of rank 1, two of rank 3
  std::mt19937_64 random(1);
  auto sampler = ExpertSampler::Create(spec, kShape, random);
  const std::array<int, 4> tokens = {0, 2, 0, 0};
  const ExchangeCounts counts(cluster, kShape, tokens, *sampler, random);
  EXPECT_EQ(counts.pairs(1, 0), 6);
  EXPECT_EQ(counts.tokens(1, 0), 2);
  EXPECT_EQ(counts.pairs(1, 1), 2);
  EXPECT_EQ(counts.pairs(1, 2), 0);
  EXPECT_EQ(counts.tokens(1, 2), 0);
  EXPECT_EQ(counts.pairs(1, 3), 4);
  EXPECT_EQ(counts.tokens_to_host(1, 0), 2);
  EXPECT_EQ(counts.tokens_to_host(1, 1), 2);
  EXPECT_EQ(counts.pairs_to_host(1, 1), 4);
  EXPECT_EQ(counts.pairs(0, 0), 0);
  EXPECT_EQ(counts.rows_of_experts(0)[15], 2);
  EXPECT_EQ(counts.rows_of_experts(3)[15], 2);
  EXPECT_EQ(counts.rows_of_experts(3).size(), 16U);
}

}  // namespace
}  // namespace longshelf::simulation
