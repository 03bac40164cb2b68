#include "cli/plan_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "testing/fixtures.h"

namespace longshelf::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

PlanRequest Request(std::vector<std::string> models, std::vector<int64_t> contexts) {
  return {std::move(models), std::move(contexts), int64_t{64} << 30};
}

TEST(PlanJson, HasThePublishedRatios) {
  const auto text = PlanJson(Request({"flash", "pro", "v3.2"}, {1'000'000, 1 << 20}));
  ASSERT_TRUE(text.ok()) << text.status();
  const auto plan = nlohmann::json::parse(*text);
  const auto& flash = plan["models"][0];
  const auto& pro = plan["models"][1];
  const auto& v32 = plan["models"][2];
  EXPECT_EQ(flash["name"], "flash");
  EXPECT_NEAR(flash["at"][0]["flops_ratio_to_v32"].get<double>(), 0.1003, 5e-5);
  EXPECT_NEAR(pro["at"][0]["flops_ratio_to_v32"].get<double>(), 0.2678, 5e-5);
  EXPECT_NEAR(flash["at"][1]["kv_ratio_to_v32"].get<double>(), 0.0732, 5e-5);
  EXPECT_NEAR(pro["at"][1]["kv_ratio_to_v32"].get<double>(), 0.1048, 5e-5);
  EXPECT_EQ(v32["at"][1]["kv_ratio_to_v32"], 1.0);
  EXPECT_EQ(v32["at"][0]["flops_ratio_to_v32"], 1.0);
  EXPECT_EQ(flash["at"][1]["kv_bytes"], 3'688'172'544);
  EXPECT_EQ(flash["at"][1]["sessions"], 18);
  EXPECT_EQ(v32["at"][1]["sessions"], 1);
  EXPECT_NEAR(flash["parameters"].get<double>(), 284.33e9, 5e6);
  double sum = 0;
  for (const auto& [part, flops] : pro["at"][0]["flops_per_token"].items()) sum += flops.get<double>();
  EXPECT_DOUBLE_EQ(sum, pro["at"][0]["flops_per_token_total"].get<double>());
}

TEST(PlanTable, ShowsAColumnPerModelAndASectionPerContext) {
  const auto text = PlanTable(Request({"flash", "v3.2"}, {4096, 1'000'000}));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, AllOf(HasSubstr("flash"), HasSubstr("v3.2"), HasSubstr("284.33 B"), HasSubstr("48068.0 B"),
                           HasSubstr("At 4096 tokens"), HasSubstr("At 1000000 tokens"), HasSubstr("10.03 %"),
                           HasSubstr("sessions in 64.000 GiB")));
}

TEST(PlanTable, TakesDirectoriesAndConfigFiles) {
  const std::string dir = testing::ModelPath("micro-pro").string();
  const auto text = PlanTable(Request({dir, dir + "/config.json"}, {1024}));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, ::testing::ContainsRegex("micro-pro +micro-pro"));
}

TEST(PlanTable, RefusesUnknownModelsByName) {
  const auto text = PlanTable(Request({"flahs"}, {1024}));
  EXPECT_EQ(text.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("--model flahs: neither flash, pro, v3.2"));
  EXPECT_FALSE(PlanTable(Request({}, {1024})).ok());
}

TEST(ParseContext, KnowsBinarySuffixesAndItsBounds) {
  EXPECT_EQ(*ParseContext("1"), 1);
  EXPECT_EQ(*ParseContext("1000000"), 1'000'000);
  EXPECT_EQ(*ParseContext("128K"), 131'072);
  EXPECT_EQ(*ParseContext("1M"), 1'048'576);
  EXPECT_EQ(*ParseContext("16M"), 16'777'216);
  for (const char* text : {"", "0", "-1", "1G", "17M", "1.5M", "K", "M1", "99999999999999999999", "1 M"}) {
    const auto parsed = ParseContext(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("--context"));
  }
}

}  // namespace
}  // namespace longshelf::cli
