#include "cli/group_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/plan_report.h"
#include "testing/fixtures.h"

namespace longshelf::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

GroupPlanRequest Request(int n_shards, int n_hosts, const std::string& network = "25g") {
  GroupPlanRequest request;
  request.n_shards = n_shards;
  request.n_hosts = n_hosts;
  request.network = *simulation::ParseNetwork(network);
  request.batches = {1, 16};
  request.prefill_tokens = 64;
  return request;
}

GroupPlan Flash(const GroupPlanRequest& request) {
  const auto plan = PlanGroup("flash", engine::FlashConfig(), request);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

TEST(PlanGroup, MemoryOfAHostIsWhatAHandCountsIt) {
  GroupPlanRequest request = Request(4, 2);
  request.batches = {6};
  const HostMemory memory = Flash(request).memory;
  // An expert: three matrices of 2048 x 4096 in FP4 with a scale for each 32. 44 layers with the draft module's, 128 of
  // 256 experts here.
  constexpr int64_t kExpert = 3 * (2048 * 4096 / 2 + 2048 * 4096 / 32);
  EXPECT_EQ(memory.expert_bytes, int64_t{128} * 44 * kExpert);
  // A step has 641 rows at most. A dispatch message: header, rows of 8192, 641 + 3846 entries of 8 in whole lines; a
  // message of results: header, 3846 rows of 8192.
  constexpr int64_t kDispatch = 64 + 641 * 8192 + 35'904;
  constexpr int64_t kResults = 64 + 3846 * 8192;
  // A second microbatch: half of them.
  constexpr int64_t kHalfDispatch = 64 + 321 * 8192 + 17'984;
  constexpr int64_t kHalfResults = 64 + 1926 * 8192;
  // In whole pages, from each of four shards; two shards on the host, which also read rows and results where they lie.
  constexpr int64_t kInbox = 4 * int64_t{5'287'936} + int64_t{31'510'528} + 641 * 8192 + int64_t{31'510'528};
  constexpr int64_t kHalfInbox = 4 * int64_t{2'650'112} + int64_t{15'781'888} + 321 * 8192 + int64_t{15'781'888};
  EXPECT_EQ(memory.inbox_bytes, 2 * (kInbox + kHalfInbox));
  EXPECT_LE(kDispatch, 5'287'936);
  EXPECT_GT(kDispatch + 4096, 5'287'936);
  EXPECT_EQ(memory.message_bytes, 2 * (kDispatch + kHalfDispatch + 2 * 2 * (kResults + kHalfResults)));
  // Two sequences on each of two shards, 16 blocks and a state each.
  EXPECT_EQ(memory.kv_bytes, 2 * 2 * (16 * int64_t{899'648} + int64_t{15'420'416}));
}

TEST(PlanGroup, EveryWeightIsOnSomeHost) {
  const int64_t all = 2 * Flash(Request(2, 2)).memory.expert_bytes;
  EXPECT_EQ(Flash(Request(1, 1)).memory.expert_bytes, all);
  EXPECT_EQ(4 * Flash(Request(8, 4)).memory.expert_bytes, all);
  EXPECT_EQ(Flash(Request(8, 4)).memory.other_bytes, Flash(Request(1, 1)).memory.other_bytes);
  EXPECT_EQ(Flash(Request(1, 1)).memory.inbox_bytes, 0);
}

TEST(PlanGroup, SentBytesAreCloseToTheMinimumAndNeverBelow) {
  for (const int n_hosts : {2, 4, 8}) {
    GroupPlanRequest request = Request(8, n_hosts);
    request.batches = {512};
    const PlannedStep step = Flash(request).decode[0];
    // What is drawn may differ from the mean by half a percent.
    EXPECT_GT(step.sent_bytes_per_token, 0.995 * step.minimum_bytes_per_token) << n_hosts;
    EXPECT_LT(step.sent_bytes_per_token, 1.03 * step.minimum_bytes_per_token) << n_hosts;
  }
  const PlannedStep alone = Flash(Request(8, 1)).decode[0];
  EXPECT_EQ(alone.sent_bytes_per_token, 0);
  EXPECT_EQ(alone.minimum_bytes_per_token, 0);
}

TEST(PlanGroup, MoreOfAnythingIsNeverSlower) {
  const auto step_s = [](const GroupPlanRequest& request) { return Flash(request).decode.back().step_s; };
  double last_s = 1e9;
  for (const char* network : {"1Gbit,20us", "10Gbit,20us", "25Gbit,20us", "25Gbit,5us", "400Gbit,5us"}) {
    const double s = step_s(Request(8, 8, network));
    EXPECT_LE(s, last_s * 1.0001) << network;
    last_s = s;
  }
  GroupPlanRequest request = Request(4, 4);
  last_s = 1e9;
  for (const double bytes_per_s : {50e9, 100e9, 200e9, 400e9}) {
    request.host_bytes_per_s = bytes_per_s;
    EXPECT_LE(step_s(request), last_s * 1.0001) << bytes_per_s;
    last_s = step_s(request);
  }
  last_s = 1e9;
  for (const int cores : {4, 8, 16, 64}) {
    request.cores_per_host = cores;
    EXPECT_LE(step_s(request), last_s * 1.0001) << cores;
    last_s = step_s(request);
  }
}

TEST(PlanGroup, TheSameRequestGivesTheSamePlan) {
  const auto text = [] { return *GroupPlanJson({"flash"}, Request(8, 4)); };
  EXPECT_EQ(text(), text());
}

TEST(PlanGroup, SaysWhetherItFits) {
  GroupPlanRequest request = Request(8, 8);
  request.host_memory_bytes = int64_t{64} << 30;
  EXPECT_FALSE(PlanGroup("pro", engine::ProConfig(), request)->fits);
  EXPECT_EQ(PlanGroup("pro", engine::ProConfig(), request)->sessions, 0);
  request.host_memory_bytes = int64_t{192} << 30;
  EXPECT_TRUE(PlanGroup("pro", engine::ProConfig(), request)->fits);
  EXPECT_GT(PlanGroup("pro", engine::ProConfig(), request)->sessions, 0);
}

TEST(PlanGroup, ThreadsAreTheCoresOfAHostUnlessGiven) {
  GroupPlanRequest request = Request(8, 4);
  EXPECT_EQ(Flash(request).threads_per_shard, 16);
  const double with_all_s = Flash(request).decode[0].step_s;
  request.threads_per_shard = 1;
  EXPECT_GT(Flash(request).decode[0].step_s, with_all_s);
}

TEST(PlanGroup, RefusesWhatCannotBe) {
  EXPECT_FALSE(PlanGroup("flash", engine::FlashConfig(), Request(3, 2)).ok());
  EXPECT_FALSE(PlanGroup("flash", engine::FlashConfig(), Request(2, 4)).ok());
  engine::ModelConfig few = engine::FlashConfig();
  few.n_routed_experts = 64;
  EXPECT_THAT(std::string(PlanGroup("few", few, Request(128, 1)).status().message()), HasSubstr("few has 64 experts"));
  EXPECT_THAT(std::string(PlanGroup("few", few, Request(129, 1)).status().message()), HasSubstr("from 1 to 128"));
}

TEST(GroupPlanTable, IsLabelledSimulatedAndKnowsCheckpoints) {
  const auto text = GroupPlanTable({testing::ModelPath("demo").string(), "pro"}, Request(4, 2));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, AllOf(HasSubstr("demo, simulated: 4 shards"), HasSubstr("pro, simulated: 4 shards"),
                           HasSubstr("network 25g: 25 Gbit/s, 20 us"), HasSubstr("of the minimum"),
                           HasSubstr("sessions of 4096 tokens")));
  EXPECT_FALSE(GroupPlanTable({"v3.2"}, Request(2, 1)).ok());
  EXPECT_EQ(GroupPlanTable({"flahs"}, Request(2, 1)).status().code(), absl::StatusCode::kNotFound);
}

TEST(GroupPlanJson, HasTheFiguresOfThePlan) {
  const GroupPlanRequest request = Request(8, 4);
  const auto json = nlohmann::json::parse(*GroupPlanJson({"flash"}, request));
  const GroupPlan plan = Flash(request);
  EXPECT_EQ(json["simulated"], true);
  const auto& model = json["models"][0];
  EXPECT_EQ(model["decode"].size(), 2U);
  EXPECT_EQ(model["decode"][1]["tokens"], 16);
  EXPECT_DOUBLE_EQ(model["decode"][1]["step_seconds"].get<double>(), plan.decode[1].step_s);
  EXPECT_EQ(model["host_memory"]["total_bytes"], plan.memory.total_bytes());
  EXPECT_EQ(model["fits"], plan.fits);
  EXPECT_DOUBLE_EQ(model["prefill_of_one_prompt"]["tokens_per_second"].get<double>(), plan.prefill_one.tokens_per_s);
}

}  // namespace
}  // namespace longshelf::cli
