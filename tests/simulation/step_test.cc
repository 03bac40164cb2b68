#include "simulation/step.h"

#include <gtest/gtest.h>

namespace longshelf::simulation {
namespace {

constexpr double kUs = 1e-6;

// Two experts, one on each of two ranks; every token wants both.
StepSpec TwoRanks() {
  StepSpec spec;
  spec.cluster = {.n_ranks = 2, .n_hosts = 1, .cores_per_host = 2};
  spec.experts = {.n_experts = 2, .n_per_token = 2, .row_bytes = 1000, .result_bytes = 2000};
  spec.tokens = {1, 1};
  spec.n_layers = 3;
  spec.compute.before_s = Curve::PerUnit(100 * kUs);
  spec.compute.shared_s = Curve::PerUnit(20 * kUs);
  spec.compute.expert_s = Curve::PerUnit(30 * kUs);
  spec.compute.after_s = Curve::PerUnit(5 * kUs);
  spec.compute.head_s = Curve::PerUnit(50 * kUs);
  spec.compute.step_s = 11 * kUs;
  return spec;
}

StepTimes Simulate(const StepSpec& spec, const std::string& routing = "uniform", uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  auto sampler = ExpertSampler::Create(*ParseRouting(routing), spec.experts, random);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return SimulateStep(spec, *sampler, random);
}

TEST(SimulateStep, OfOneRankIsTheSumOfItsWork) {
  StepSpec spec = TwoRanks();
  spec.cluster = {.n_ranks = 1, .n_hosts = 1, .cores_per_host = 2};
  spec.tokens = {2};
  // Two tokens: two experts with two rows each.
  EXPECT_NEAR(Simulate(spec).step_s, (3 * (200 + 40 + 2 * 60 + 10) + 100 + 11) * kUs, 1e-12);
  EXPECT_EQ(Simulate(spec).exposed_s, 0);
}

TEST(SimulateStep, SharedExpertHidesWhatTravels) {
  StepSpec spec = TwoRanks();
  spec.exchange.phase_s = 2 * kUs;
  spec.exchange.shared_memory.message_s = 1 * kUs;
  spec.exchange.shared_memory.latency_s = 4 * kUs;
  // A dispatch message: header, a row of 16 lines, one line of entries; a combine message: header and 32 lines.
  // Rows are sent and read where they lie, half of the work on either side: reading is no part of what is exposed.
  spec.exchange.shared_memory.between_cores.rows_s = Curve::PerUnit(2e-9);
  spec.exchange.shared_memory.between_cores.results_s = Curve::PerUnit(2e-9);
  const double dispatch_s = (64 + 1024 + 64) * 1e-9;
  const double combine_s = (64 + 2048) * 1e-9;
  // Of the dispatch only the sending is exposed; of the combine everything is.
  const double exposed_s = 3 * ((2 + 1) * kUs + dispatch_s + (2 + 1 + 4) * kUs + combine_s);
  const StepTimes times = Simulate(spec);
  EXPECT_NEAR(times.exposed_s, exposed_s, 1e-12);
  const double read_s = 3 * static_cast<double>(spec.experts.row_bytes + spec.experts.result_bytes) * 1e-9;
  EXPECT_NEAR(times.step_s, exposed_s + read_s + (3 * (100 + 20 + 60 + 5) + 50 + 11) * kUs, 1e-12);
  EXPECT_EQ(times.near_bytes, 3 * 2 * (64 + 1024 + 64 + 64 + 2048));
  EXPECT_EQ(times.far_bytes, 0);
}

TEST(SimulateStep, OverTcpBothSidesWorkForTheBytes) {
  StepSpec spec = TwoRanks();
  spec.cluster.n_hosts = 2;
  spec.part = StepPart::kDispatch;
  spec.network = {.name = "", .bytes_per_s = 1e9, .latency_s = 50 * kUs};
  spec.compute = {};
  spec.exchange.tcp.message_s = 3 * kUs;
  spec.exchange.tcp.latency_s = 7 * kUs;
  spec.exchange.tcp.between_cores.rows_s = Curve::PerUnit(4e-9);
  const double bytes = 64 + 1024 + 64;
  EXPECT_NEAR(Simulate(spec).dispatch_s, 60 * kUs + bytes * (2 + 1 + 2) * 1e-9, 1e-12);
  spec.network.offloaded = true;
  spec.exchange.offloaded_message_s = 1 * kUs;
  EXPECT_NEAR(Simulate(spec).dispatch_s, 51 * kUs + bytes * 1e-9, 1e-12);
}

TEST(SimulateStep, LargeMessagesAreTakenWhileTheyAreSent) {
  StepSpec spec = TwoRanks();
  spec.cluster.n_hosts = 2;
  spec.part = StepPart::kCombine;
  spec.network = {.name = "", .bytes_per_s = 1e15, .latency_s = 0};
  spec.compute = {};
  spec.exchange.tcp.between_cores.results_s = Curve::PerUnit(2e-9);
  // Nearly all go to the first rank's expert, so that it sends results and the other one takes them.
  spec.experts = {.n_experts = 2, .n_per_token = 1, .row_bytes = 64, .result_bytes = 64};
  spec.tokens = {0, 64000};
  const StepTimes times = Simulate(spec, "hot:1:0.999");
  ASSERT_GT(times.far_bytes, 50 * 65536);
  // One after the other they would take twice that.
  EXPECT_LT(times.step_s, 1.1 * times.far_bytes * 1e-9);
}

TEST(SimulateStep, MessagesToOneInterfaceComeOneAfterTheOther) {
  StepSpec spec;
  spec.cluster = {.n_ranks = 4, .n_hosts = 4};
  spec.experts = {.n_experts = 4, .n_per_token = 1, .row_bytes = 64, .result_bytes = 64 * 100};
  // One token, and one whose expert is elsewhere: the results of rank 0's tokens come from where they were computed.
  spec.tokens = {3000, 0, 0, 0};
  spec.network = {.name = "", .bytes_per_s = 1e9, .latency_s = 1 * kUs, .offloaded = true};
  spec.part = StepPart::kCombine;
  const StepTimes times = Simulate(spec);
  // About three quarters of 3000 results of 6400 bytes through rank 0's interface.
  EXPECT_NEAR(times.nic_bytes_max, 0.75 * 3000 * 6400, 0.05 * 0.75 * 3000 * 6400);
  EXPECT_GE(times.step_s, times.nic_busy_s);
  EXPECT_LT(times.step_s, times.nic_busy_s + 2 * kUs);
}

TEST(SimulateStep, RanksShareCores) {
  StepSpec spec = TwoRanks();
  const double alone_s = Simulate(spec).step_s - spec.compute.step_s;
  spec.cluster.cores_per_host = 1;
  EXPECT_NEAR(Simulate(spec).step_s - spec.compute.step_s, 2 * alone_s, 1e-9);
  spec.cluster.cores_per_host = 2;
  spec.cluster.n_hosts = 2;
  spec.network = {.name = "", .bytes_per_s = 1e15, .latency_s = 0};
  spec.one_machine = true;
  EXPECT_NEAR(Simulate(spec).step_s - spec.compute.step_s, alone_s, 1e-9);
  spec.cluster.cores_per_host = 1;
  EXPECT_NEAR(Simulate(spec).step_s - spec.compute.step_s, 2 * alone_s, 1e-9);
}

// A spec with everything in it.
StepSpec Mixed() {
  StepSpec spec;
  spec.cluster = {.n_ranks = 8, .n_hosts = 4, .cores_per_host = 2};
  spec.experts = {.n_experts = 64, .n_per_token = 6, .row_bytes = 4128, .result_bytes = 8192};
  spec.tokens.assign(8, 16);
  spec.n_layers = 6;
  spec.compute = TwoRanks().compute;
  spec.exchange = MeasuredExchangeCosts();
  spec.network = {.name = "", .bytes_per_s = 1e9, .latency_s = 20 * kUs};
  return spec;
}

TEST(SimulateStep, TheSameSeedGivesTheSameTimes) {
  const StepTimes a = Simulate(Mixed(), "zipf", 7);
  const StepTimes b = Simulate(Mixed(), "zipf", 7);
  EXPECT_EQ(a.step_s, b.step_s);
  EXPECT_EQ(a.exposed_s, b.exposed_s);
  EXPECT_EQ(a.far_bytes, b.far_bytes);
  EXPECT_NE(a.step_s, Simulate(Mixed(), "zipf", 8).step_s);
}

TEST(SimulateStep, MoreBandwidthAndLessLatencyAreNeverSlower) {
  for (const bool offloaded : {false, true}) {
    StepSpec spec = Mixed();
    spec.network.offloaded = offloaded;
    double last_s = 1e9;
    for (const double bytes_per_s : {1e8, 3e8, 1e9, 3e9, 1e10, 1e11}) {
      spec.network.bytes_per_s = bytes_per_s;
      const double step_s = Simulate(spec).step_s;
      EXPECT_LE(step_s, last_s * 1.0001) << bytes_per_s;
      last_s = step_s;
    }
    last_s = 0;
    for (const double latency_s : {1e-6, 5e-6, 20e-6, 100e-6, 1e-3}) {
      spec.network.latency_s = latency_s;
      const double step_s = Simulate(spec).step_s;
      EXPECT_GE(step_s, last_s * 0.9999) << latency_s;
      last_s = step_s;
    }
  }
}

TEST(SimulateStep, SkewMakesItSlower) {
  EXPECT_GT(Simulate(Mixed(), "hot:8:0.9").step_s, 1.5 * Simulate(Mixed()).step_s);
}

TEST(SimulateStep, RanksWithoutTokensTakePart) {
  StepSpec spec = Mixed();
  spec.tokens.assign(8, 0);
  spec.tokens[3] = 1;
  const StepTimes times = Simulate(spec);
  EXPECT_GT(times.step_s, 0);
  EXPECT_GT(times.far_bytes, 0);
}

}  // namespace
}  // namespace longshelf::simulation
