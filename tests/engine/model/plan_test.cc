#include "engine/model/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/weights.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kMillion = 1'000'000;
constexpr int64_t kMebi = 1 << 20;
constexpr double kGibi = 1 << 30;

ModelConfig Config(const char* name) {
  const auto config = LoadModelConfig(testing::FixturePath(std::string("configs/") + name));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

double Billions(int64_t n) { return static_cast<double>(n) / 1e9; }

TEST(CountParameters, GivesThePublishedTotals) {
  const ParameterTable flash = CountParameters(Config("flash"));
  const ParameterTable pro = CountParameters(Config("pro"));
  EXPECT_EQ(flash.main.total, 284'332'240'471);
  EXPECT_EQ(flash.draft_module.total, 6'610'048'891);
  EXPECT_EQ(pro.main.total, 1'572'997'201'763);
  EXPECT_EQ(pro.draft_module.total, 25'840'145'979);
  EXPECT_NEAR(Billions(flash.main.total), 284.33, 5e-3);
  EXPECT_NEAR(Billions(pro.main.total + pro.draft_module.total), 1598.84, 5e-3);
  EXPECT_NEAR(Billions(flash.main.active), 13.268, 5e-4);
  EXPECT_NEAR(Billions(pro.main.active), 48.849, 5e-4);
}

// Everything a checkpoint holds, counted from the files, is what the config says.
TEST(CountParameters, GivesTheStoredBytesOfEveryFixtureModel) {
  for (const char* model : {"micro-flash", "micro-pro", "micro-odd", "demo"}) {
    int64_t stored = 0;
    for (const auto& entry : std::filesystem::directory_iterator(testing::ModelPath(model))) {
      if (entry.path().extension() == ".safetensors") {
        const auto file = SafetensorsFile::Open(entry.path());
        ASSERT_TRUE(file.ok()) << file.status();
        for (const auto& [name, view] : (*file)->tensors()) {
          stored += static_cast<int64_t>(view.bytes.size());
        }
      }
    }
    const ParameterTable table = CountParameters(*LoadModelConfig(testing::ModelPath(model)));
    EXPECT_EQ(table.main.stored_bytes + table.draft_module.stored_bytes, stored) << model;
  }
}

TEST(CostModel, GivesThePublishedKvBytes) {
  const CostModel flash = CostModel::OfV4("flash", Config("flash"));
  const CostModel pro = CostModel::OfV4("pro", Config("pro"));
  EXPECT_EQ(flash.block_bytes(), 899'648);
  EXPECT_EQ(pro.block_bytes(), 1'288'048);
  EXPECT_EQ(flash.KvBytes(kMebi), 3'688'172'544);
  EXPECT_EQ(pro.KvBytes(kMebi), 5'280'404'480);
  EXPECT_DOUBLE_EQ(flash.kv_bytes_per_token(), 21 * 163 + 20 * 4.5625);
  EXPECT_DOUBLE_EQ(pro.kv_bytes_per_token(), 30 * 163 + 31 * 4.5625);
  const CostModel v32 = CostModel::OfV32();
  EXPECT_EQ(v32.kv_bytes_per_token(), 48'068);
  EXPECT_NEAR(static_cast<double>(v32.KvBytes(kMebi)) / kGibi, 46.94, 5e-3);
}

TEST(CostModel, GivesThePublishedKvRatios) {
  const auto v32 = static_cast<double>(CostModel::OfV32().KvBytes(kMebi));
  EXPECT_NEAR(static_cast<double>(CostModel::OfV4("", Config("flash")).KvBytes(kMebi)) / v32, 0.0732, 5e-5);
  EXPECT_NEAR(static_cast<double>(CostModel::OfV4("", Config("pro")).KvBytes(kMebi)) / v32, 0.1048, 5e-5);
}

TEST(CostModel, GivesThePublishedFlopsRatios) {
  const CostModel flash = CostModel::OfV4("flash", Config("flash"));
  const CostModel pro = CostModel::OfV4("pro", Config("pro"));
  const CostModel v32 = CostModel::OfV32();
  EXPECT_NEAR(Billions(v32.active_parameters()), 37.476, 5e-4);
  const auto ratio = [&](const CostModel& model, int64_t n) {
    return model.Fp8EquivalentFlops(n) / v32.Fp8EquivalentFlops(n);
  };
  EXPECT_NEAR(ratio(flash, kMillion), 0.1003, 5e-5);
  EXPECT_NEAR(ratio(pro, kMillion), 0.2678, 5e-5);
  EXPECT_NEAR(ratio(flash, kMebi), 0.0997, 5e-5);
  EXPECT_NEAR(ratio(pro, kMebi), 0.2645, 5e-5);
  EXPECT_NEAR(flash.TotalFlops(kMillion) / v32.TotalFlops(kMillion), 0.122, 5e-4);
  EXPECT_NEAR(pro.TotalFlops(kMillion) / v32.TotalFlops(kMillion), 0.265, 5e-4);
}

TEST(CostModel, CountsOnlyFinishedEntriesAndAtMostOneWindow) {
  const CostModel flash = CostModel::OfV4("flash", Config("flash"));
  EXPECT_EQ(flash.KvBytes(0), 0);
  EXPECT_EQ(flash.KvBytes(3), 43 * 3 * 584);
  EXPECT_EQ(flash.KvBytes(4), 43 * 4 * 584 + 21 * (584 + 68));
  EXPECT_EQ(flash.KvBytes(127) - flash.KvBytes(126), 43 * 584);
  EXPECT_EQ(flash.KvBytes(129), flash.KvBytes(128));
}

TEST(CostModel, SessionsTakeWholeBlocksAndAState) {
  const CostModel flash = CostModel::OfV4("flash", Config("flash"));
  const int64_t one = flash.block_bytes() + flash.state_bytes();
  EXPECT_EQ(flash.ReservedBytes(1), one);
  EXPECT_EQ(flash.ReservedBytes(256), one);
  EXPECT_EQ(flash.ReservedBytes(257), one + flash.block_bytes());
  EXPECT_EQ(flash.SessionsIn(10 * one, 256), 10);
  EXPECT_EQ(flash.SessionsIn(10 * one - 1, 256), 9);
}

TEST(CostModel, OfAModelWithoutCompressionHasNoBlocks) {
  ModelConfig config = Config("flash");
  config.compress_ratios.assign(config.compress_ratios.size(), 0);
  const CostModel model = CostModel::OfV4("sliding", config);
  EXPECT_EQ(model.block_bytes(), 0);
  EXPECT_EQ(model.kv_bytes_per_token(), 0);
  EXPECT_EQ(model.ReservedBytes(kMebi), model.state_bytes());
}

}  // namespace
}  // namespace longshelf::engine
