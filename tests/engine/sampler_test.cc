#include "sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "exact_math.h"
#include "philox.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

uint32_t Sample(const std::vector<float>& logits, const SamplingParams& params, int64_t position = 0,
                const TokenCounts& counts = {}) {
  const auto sampled = SampleToken(logits, params, counts, position);
  EXPECT_TRUE(sampled.ok()) << sampled.status();
  return sampled.ok() ? sampled->token : ~0U;
}

std::vector<float> RandomLogits(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, 2.0F);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The specification, written the slow way: everything sorted, nothing skipped.
std::map<uint32_t, double> ExactProbabilities(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<uint32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0U);
  std::stable_sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && params.top_k < ids.size()) ids.resize(params.top_k);
  std::vector<double> weights;
  for (const uint32_t id : ids) weights.push_back(std::exp((logits[id] - logits[ids[0]]) / params.temperature));
  const double mass = std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t n_top_p = 0;
  for (double kept = 0.0;
       n_top_p < ids.size() && (n_top_p == 0 || params.top_p >= 1.0 || kept < params.top_p * mass);) {
    kept += weights[n_top_p++];
  }
  std::map<uint32_t, double> out;
  double kept = 0.0;
  for (size_t i = 0; i < n_top_p; ++i) {
    if (weights[i] < params.min_p) continue;
    out[ids[i]] = weights[i];
    kept += weights[i];
  }
  for (auto& [id, p] : out) p /= kept;
  return out;
}

TEST(Philox, GivesThePublishedVectors) {
  using Counter = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}), (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformIsInTheUnitIntervalAndSpreadEvenly) {
  std::vector<int> buckets(16, 0);
  for (uint64_t position = 0; position < 16000; ++position) {
    const double u = UniformAt(7, position);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++buckets[static_cast<size_t>(u * 16)];
  }
  double chi2 = 0.0;
  for (const int n : buckets) chi2 += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(chi2, 44.3);  // 15 degrees of freedom, p = 1e-4
}

TEST(Sampler, GreedyTakesTheHighestAndTheLowestIdOnTies) {
  EXPECT_EQ(Sample({0.0F, 3.0F, -1.0F, 3.0F}, {.temperature = 0.0}), 1U);
  EXPECT_EQ(Sample({-kInfinity, -5.0F, -5.0F}, {.temperature = 0.0}), 1U);
}

TEST(Sampler, DrawsMatchExactProbabilities) {
  const std::vector<SamplingParams> cases = {
      {.temperature = 1.0, .seed = 11},
      {.temperature = 0.5, .seed = 12},
      {.temperature = 2.0, .top_k = 7, .seed = 13},
      {.temperature = 1.0, .top_p = 0.6, .seed = 14},
      {.temperature = 1.0, .min_p = 0.1, .seed = 15},
      {.temperature = 1.3, .top_p = 0.9, .top_k = 20, .min_p = 0.05, .seed = 16},
  };
  const std::vector<float> logits = RandomLogits(200, 99);
  constexpr int kDraws = 20000;
  for (const SamplingParams& params : cases) {
    const auto expected = ExactProbabilities(logits, params);
    std::map<uint32_t, int> seen;
    for (int i = 0; i < kDraws; ++i) ++seen[Sample(logits, params, i)];
    for (const auto& [id, n] : seen) EXPECT_TRUE(expected.contains(id)) << "seed " << params.seed << " drew " << id;
    double chi2 = 0.0;
    double rare_expected = 0.0;
    double rare_seen = 0.0;
    int degrees = -1;
    const auto add = [&](double n_seen, double n_expected) {
      chi2 += (n_seen - n_expected) * (n_seen - n_expected) / n_expected;
      ++degrees;
    };
    for (const auto& [id, p] : expected) {
      const double n_seen = seen.contains(id) ? seen[id] : 0;
      if (p * kDraws >= 10.0) {
        add(n_seen, p * kDraws);
      } else {
        rare_expected += p * kDraws;
        rare_seen += n_seen;
      }
    }
    if (rare_expected > 5.0) add(rare_seen, rare_expected);
    // Wilson-Hilferty: 4.3 sigma, about 1e-5; seeds are fixed, so this passes always or never.
    const double d = std::max(degrees, 1);
    const double z = (std::cbrt(chi2 / d) - (1.0 - 2.0 / (9.0 * d))) / std::sqrt(2.0 / (9.0 * d));
    EXPECT_LT(z, 4.3) << "seed " << params.seed << ": chi2 " << chi2 << " with " << degrees << " degrees";
  }
}

TEST(Sampler, DrawsTheSameForLargeVocabulariesAsTheSlowSpecification) {
  const std::vector<float> logits = RandomLogits(5000, 5);
  const SamplingParams params{.temperature = 1.5, .top_p = 0.95, .seed = 3};
  const auto expected = ExactProbabilities(logits, params);
  for (int64_t position = 0; position < 300; ++position) {
    std::vector<std::pair<uint32_t, double>> ranked(expected.begin(), expected.end());
    std::sort(ranked.begin(), ranked.end(), [&](const auto& a, const auto& b) {
      return logits[a.first] != logits[b.first] ? logits[a.first] > logits[b.first] : a.first < b.first;
    });
    double left = UniformAt(params.seed, static_cast<uint64_t>(position));
    uint32_t want = ranked.back().first;
    for (const auto& [id, p] : ranked) {
      if (left < p) {
        want = id;
        break;
      }
      left -= p;
    }
    EXPECT_EQ(Sample(logits, params, position), want) << position;
  }
}

TEST(Sampler, IsAPureFunctionOfSeedAndPosition) {
  const std::vector<float> logits = RandomLogits(100, 1);
  const SamplingParams a{.temperature = 1.0, .seed = 1};
  const SamplingParams b{.temperature = 1.0, .seed = 2};
  int n_differ_by_seed = 0;
  int n_differ_by_position = 0;
  for (int64_t position = 0; position < 100; ++position) {
    EXPECT_EQ(Sample(logits, a, position), Sample(logits, a, position));
    n_differ_by_seed += Sample(logits, a, position) != Sample(logits, b, position);
    n_differ_by_position += Sample(logits, a, position) != Sample(logits, a, position + 1);
  }
  EXPECT_GT(n_differ_by_seed, 50);
  EXPECT_GT(n_differ_by_position, 50);
}

TEST(Sampler, NarrowSettingsAllMeanGreedy) {
  const std::vector<float> logits = RandomLogits(500, 8);
  const uint32_t best = Sample(logits, {.temperature = 0.0});
  for (int64_t position = 0; position < 50; ++position) {
    EXPECT_EQ(Sample(logits, {.temperature = 1.0, .top_k = 1}, position), best);
    EXPECT_EQ(Sample(logits, {.temperature = 1.0, .top_p = 0.0}, position), best);
    EXPECT_EQ(Sample(logits, {.temperature = 1.0, .min_p = 1.0}, position), best);
    EXPECT_EQ(Sample(logits, {.temperature = 1e-6}, position), best);
    EXPECT_EQ(Sample(logits, {.temperature = 1e-308}, position), best);
  }
}

TEST(Sampler, PenaltiesCountOutputTokens) {
  const std::vector<float> logits = {2.0F, 1.9F, 1.0F};
  EXPECT_EQ(Sample(logits, {.temperature = 0.0, .presence_penalty = 0.2}, 0, {{0, 5}}), 1U);
  EXPECT_EQ(Sample(logits, {.temperature = 0.0, .frequency_penalty = 0.04}, 0, {{0, 2}}), 0U);
  EXPECT_EQ(Sample(logits, {.temperature = 0.0, .frequency_penalty = 0.06}, 0, {{0, 2}}), 1U);
  EXPECT_EQ(Sample(logits, {.temperature = 0.0, .presence_penalty = -2.0}, 0, {{2, 1}}), 2U);
  EXPECT_EQ(Sample(logits, {.temperature = 0.0, .presence_penalty = 2.0}, 0, {{1000, 1}}), 0U);
}

TEST(Sampler, ReportsLogprobsOfTheModelNotOfTheSettings) {
  const std::vector<float> logits = {1.0F, 3.0F, 2.0F, -kInfinity};
  const auto sampled = SampleToken(
      logits, {.temperature = 0.0, .top_k = 1, .presence_penalty = 5.0, .logprobs = true, .n_top_logprobs = 9},
      {{1, 1}}, 0);
  ASSERT_TRUE(sampled.ok());
  EXPECT_EQ(sampled->token, 2U);
  const double mass = std::exp(1.0) + std::exp(3.0) + std::exp(2.0);
  EXPECT_NEAR(sampled->logprob, 2.0 - std::log(mass), 1e-6);
  ASSERT_EQ(sampled->top.size(), 4U);
  EXPECT_EQ(sampled->top[0].token, 1U);
  EXPECT_NEAR(sampled->top[0].logprob, 3.0 - std::log(mass), 1e-6);
  EXPECT_EQ(sampled->top[2].token, 0U);
  EXPECT_EQ(sampled->top[3].logprob, -kInfinity);
}

TEST(Sampler, NeverDrawsWhatIsImpossible) {
  const std::vector<float> logits = {-kInfinity, 1.0F, -kInfinity, 1.0F, -kInfinity};
  for (int64_t position = 0; position < 200; ++position) {
    const uint32_t token = Sample(logits, {.temperature = 1.0, .seed = 4}, position);
    EXPECT_TRUE(token == 1 || token == 3);
  }
}

TEST(Sampler, RefusesLogitsThatAreNotNumbers) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    const auto sampled = SampleToken(std::vector<float>{0.0F, bad, 0.0F}, {}, {}, 0);
    EXPECT_EQ(sampled.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(sampled.status().message()), HasSubstr("token 1"));
  }
  EXPECT_FALSE(SampleToken(std::vector<float>{-kInfinity, -kInfinity}, {}, {}, 0).ok());
}

TEST(Sampler, AddsABiasBeforeAnythingElse) {
  const std::vector<float> logits = {1.0F, 2.0F, 3.0F, 4.0F};
  SamplingParams params{.temperature = 0.0, .logprobs = true};
  params.logit_bias = {{1, 2.5F}, {3, -100.0F}};
  const auto sampled = SampleToken(logits, params, {}, 0);
  ASSERT_TRUE(sampled.ok());
  EXPECT_EQ(sampled->token, 1U);
  const auto unbiased = SampleToken(logits, {.temperature = 0.0, .logit_bias = {{1, 2.5F}}}, {}, 0);
  EXPECT_EQ(unbiased->token, 1U);
  // What is told of it is the model's own.
  EXPECT_EQ(sampled->logprob, ScoreToken(logits, 1, 0)->logprob);
  // Penalties are taken from what the bias made.
  params.presence_penalty = 2.0;
  EXPECT_EQ(SampleToken(logits, params, {{1, 1}}, 0)->token, 2U);
}

TEST(Sampler, NamesTheParameterThatIsOutOfBounds) {
  EXPECT_TRUE(CheckSamplingParams({}, 100).ok());
  const auto message = [](const SamplingParams& params) {
    return std::string(CheckSamplingParams(params, 100).message());
  };
  EXPECT_THAT(message({.temperature = -0.1}), HasSubstr("temperature"));
  EXPECT_THAT(message({.temperature = std::nan("")}), HasSubstr("temperature"));
  EXPECT_THAT(message({.top_p = 1.5}), HasSubstr("top_p"));
  EXPECT_THAT(message({.min_p = -1}), HasSubstr("min_p"));
  EXPECT_THAT(message({.presence_penalty = 1e9}), HasSubstr("presence_penalty"));
  EXPECT_THAT(message({.frequency_penalty = -1e9}), HasSubstr("frequency_penalty"));
  EXPECT_THAT(message({.n_top_logprobs = 100000}), HasSubstr("n_top_logprobs"));
  EXPECT_THAT(message({.logit_bias = {{100, 1.0F}}}), HasSubstr("token 100; the vocabulary has 100"));
  EXPECT_THAT(message({.logit_bias = {{9, 1.0F}, {9, 2.0F}}}), HasSubstr("must ascend"));
  EXPECT_THAT(message({.logit_bias = {{9, 100.5F}}}), HasSubstr("-100 to 100"));
  EXPECT_THAT(message({.logit_bias = {{9, std::nanf("")}}}), HasSubstr("-100 to 100"));
  EXPECT_THAT(message({.logit_bias = std::vector<TokenBias>(1025)}), HasSubstr("at most 1024"));
}

// The values themselves are pinned: they must be the same on every machine.
TEST(ExactMath, IsCloseToLibmAndFixed) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 100000; ++i) {
    const double x = -700.0 * static_cast<double>(random() >> 11) / 0x1p53;
    EXPECT_NEAR(ExactExp(x) / std::exp(x), 1.0, 5e-16) << x;
    const double y = 1.0 + 1e6 * static_cast<double>(random() >> 11) / 0x1p53;
    EXPECT_NEAR(ExactLog(y), std::log(y), 1e-15 * (1.0 + std::log(y))) << y;
  }
  EXPECT_EQ(ExactExp(0.0), 1.0);
  EXPECT_EQ(ExactExp(-1000.0), 0.0);
  EXPECT_EQ(ExactExp(-HUGE_VAL), 0.0);
  EXPECT_NEAR(ExactLog(1.0), 0.0, 3e-16);
  uint64_t digest = 0;
  for (int i = 0; i < 10000; ++i) {
    digest = digest * 31 + std::bit_cast<uint64_t>(ExactExp(-0.07 * i)) + std::bit_cast<uint64_t>(ExactLog(1.0 + i));
  }
  EXPECT_EQ(digest, 0xe27a58f09eed300eU);
}

}  // namespace
}  // namespace longshelf::engine
