#include "cli/model_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "testing/fixtures.h"

namespace longshelf::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(ModelInfo, OfAConfigAloneGivesParametersAndKvBytes) {
  const auto dir = testing::FixturePath("configs/pro");
  const auto config = engine::LoadModelConfig(dir);
  const auto checkpoint = SummarizeCheckpoint(dir, /*with_digest=*/false);
  ASSERT_TRUE(config.ok() && checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE(checkpoint->has_tensors);
  EXPECT_THAT(ModelInfoText("pro", *config, *checkpoint),
              AllOf(HasSubstr("1598.84 B"), HasSubstr("48.85 B"), HasSubstr("1288048 B for 256 tokens"),
                    HasSubstr("584 B, 68 B"), HasSubstr("4.918 GiB"), HasSubstr("30: 2-60 step 2"),
                    HasSubstr("31: 0-1, 3-59 step 2"), HasSubstr("3: 0-2"), HasSubstr("config.json only")));
}

TEST(ModelInfo, OfACheckpointSaysThatItsTensorsFit) {
  const auto dir = testing::ModelPath("demo");
  const auto config = engine::LoadModelConfig(dir);
  const auto checkpoint = SummarizeCheckpoint(dir, /*with_digest=*/true);
  ASSERT_TRUE(config.ok() && checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->has_tensors);
  EXPECT_TRUE(checkpoint->has_draft_module);
  EXPECT_THAT(checkpoint->digest, SizeIs(64));
  EXPECT_THAT(ModelInfoText("demo", *config, *checkpoint),
              AllOf(HasSubstr("tensors: every one"), HasSubstr(checkpoint->digest)));
  const auto json = nlohmann::json::parse(ModelInfoJson(*config, *checkpoint));
  EXPECT_EQ(json["layers"], 4);
  EXPECT_EQ(json["checkpoint"]["digest"], checkpoint->digest);
  EXPECT_GT(json["parameters"]["draft_module"]["total"].get<int64_t>(), 0);
}

TEST(ModelInfo, OfABrokenCheckpointFails) {
  const auto dir = testing::MakeTempDir("broken") / "model";
  std::filesystem::copy(testing::ModelPath("micro-odd"), dir);
  std::filesystem::remove(dir / "model-00003-of-00003.safetensors");
  EXPECT_FALSE(SummarizeCheckpoint(dir, /*with_digest=*/false).ok());
}

}  // namespace
}  // namespace longshelf::cli
