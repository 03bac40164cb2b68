// An outside check: the model, with one fitted number, beside figures that others published.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "simulation/step.h"

namespace longshelf::simulation {
namespace {

// DeepEP's low-latency kernels (github.com/deepseek-ai/DeepEP, docs/legacy.md): H800 with eight GPUs and eight
// interfaces of 400 Gbit/s each, 128 tokens on each GPU, hidden 7168, 8 experts for a token, FP8 there and BF16 back.
// Every (token, expert) pair travels by itself.
struct Published {
  int n_ranks;
  double dispatch_us;
  double combine_us;
};
constexpr Published kPublished[] = {{16, 118, 195}, {32, 155, 273}, {64, 173, 314}, {128, 192, 369}, {256, 194, 360}};

StepTimes Simulate(int n_ranks, StepPart part) {
  StepSpec spec;
  spec.cluster = {.n_ranks = n_ranks, .n_hosts = n_ranks / 8, .cores_per_host = 8, .nics_per_host = 8};
  spec.experts = {.n_experts = 256,
                  .n_per_token = 8,
                  .row_bytes = 7168 + 224 + 16,
                  .result_bytes = 2 * 7168,
                  .once_per_destination = false};
  spec.tokens.assign(static_cast<size_t>(n_ranks), 128);
  spec.part = part;
  spec.network = {.name = "CX7", .bytes_per_s = 50e9, .latency_s = 0, .offloaded = true};
  // No costs of our own: theirs is a GPU's work, and what goes over NVLink (98 GB/s and more for half of the rows at
  // most) goes beside and is done earlier.
  std::mt19937_64 random(1);
  auto sampler = ExpertSampler::Create({}, spec.experts, random);
  EXPECT_TRUE(sampler.ok());
  return SimulateStep(spec, *sampler, random);
}

TEST(PublishedFigures, ALatencyAndTheBandwidthGiveDeepEpsTable) {
  struct Point {
    double moving_us;
    double published_us;
  };
  std::vector<Point> points;
  for (const Published& p : kPublished) {
    points.push_back({Simulate(p.n_ranks, StepPart::kDispatch).dispatch_s * 1e6, p.dispatch_us});
    points.push_back({Simulate(p.n_ranks, StepPart::kCombine).combine_s * 1e6, p.combine_us});
  }
  // The one fitted number: a latency that minimises the squares of the relative errors.
  double above = 0;
  double below = 0;
  for (const Point& p : points) {
    above += (p.published_us - p.moving_us) / (p.published_us * p.published_us);
    below += 1 / (p.published_us * p.published_us);
  }
  const double latency_us = above / below;
  EXPECT_GT(latency_us, 10);
  EXPECT_LT(latency_us, 80);
  double error_sum = 0;
  for (const Point& p : points) {
    const double error = std::abs(p.moving_us + latency_us - p.published_us) / p.published_us;
    error_sum += error;
    EXPECT_LE(error, 0.3) << p.moving_us << " + " << latency_us << " us, published " << p.published_us;
  }
  RecordProperty("latency_us", std::to_string(latency_us));
  RecordProperty("mean_error", std::to_string(error_sum / static_cast<double>(points.size())));
  // It must not be that anything fits: half of the bandwidth does not.
  EXPECT_GT(points.back().moving_us * 2, 1.3 * points.back().published_us);
}

}  // namespace
}  // namespace longshelf::simulation
