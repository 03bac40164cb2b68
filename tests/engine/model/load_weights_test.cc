#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/weights.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

class EveryFixtureModel : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryFixtureModel, LoadsWithEveryTensorUsedAndProgressThatEndsAtTheTotal) {
  LoadProgress last;
  uint64_t previous = 0;
  const auto weights = LoadModelWeights(testing::ModelPath(GetParam()), [&](const LoadProgress& progress) {
    EXPECT_GE(progress.bytes_done, previous);
    previous = progress.bytes_done;
    last = progress;
  });
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_GT(last.bytes_total, 0U);
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_THAT((*weights)->unused_tensors, ::testing::IsEmpty());
  EXPECT_EQ((*weights)->layers.size(), static_cast<size_t>((*weights)->config.n_layers));
  EXPECT_EQ((*weights)->mtp.size(), static_cast<size_t>((*weights)->config.n_mtp_layers));
  for (int64_t l = 0; l < (*weights)->config.n_layers; ++l) {
    const LayerWeights& layer = (*weights)->layers[static_cast<size_t>(l)];
    EXPECT_EQ(layer.attn.compressor.has_value(), (*weights)->config.ratio(l) != 0);
    EXPECT_EQ(layer.attn.indexer.has_value(), (*weights)->config.ratio(l) == 4);
    EXPECT_EQ(layer.moe.tid2eid.empty(), !(*weights)->config.is_hash_layer(l));
    EXPECT_EQ(layer.moe.bias.empty(), (*weights)->config.is_hash_layer(l));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EveryFixtureModel, ::testing::Values("demo", "micro-flash", "micro-pro", "micro-odd"));

TEST(RandomWeights, HoldADsparkModule) {
  const auto config = LoadModelConfig(testing::FixturePath("configs/micro-dspark"));
  ASSERT_TRUE(config.ok()) << config.status();
  const auto weights = MakeRandomModelWeights(*config, 7);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE((*weights)->mtp.empty());
  ASSERT_TRUE((*weights)->dspark.has_value());
  const DsparkWeights& dspark = *(*weights)->dspark;
  EXPECT_EQ(dspark.stages.size(), 3U);
  EXPECT_EQ(dspark.main_proj.cols, 3 * config->hidden_size);
  EXPECT_EQ(dspark.markov_w2.rows, config->vocab_size);
  EXPECT_EQ(dspark.confidence.cols, config->hidden_size + 32);
}

TEST(RandomWeights, AreEqualForEqualSeedsAndHoldTheShapesOfTheConfig) {
  const auto config = LoadModelConfig(testing::ModelPath("micro-flash"));
  ASSERT_TRUE(config.ok()) << config.status();
  const auto a = MakeRandomModelWeights(*config, 7);
  const auto b = MakeRandomModelWeights(*config, 7);
  const auto c = MakeRandomModelWeights(*config, 8);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok()) << a.status();
  const auto bytes = [](const Matrix& m) { return std::vector<uint8_t>(m.data, m.data + m.rows * m.cols); };
  EXPECT_EQ(bytes((*a)->layers[2].attn.wq_b), bytes((*b)->layers[2].attn.wq_b));
  EXPECT_NE(bytes((*a)->layers[2].attn.wq_b), bytes((*c)->layers[2].attn.wq_b));
  EXPECT_NE(bytes((*a)->layers[2].attn.wq_b), bytes((*a)->layers[3].attn.wq_b));
  EXPECT_EQ((*a)->digest, (*b)->digest);
  EXPECT_NE((*a)->digest, (*c)->digest);
  EXPECT_EQ((*a)->layers[2].moe.experts[0].w1.format, Matrix::Format::kFp4);
  EXPECT_EQ((*a)->mtp.size(), 1U);
}

TEST(RandomWeights, LargerThanMemoryAreRefusedBeforeAnyIsGenerated) {
  ModelConfig config = ProConfig();
  config.n_routed_experts = 4096;  // 8 TiB
  const auto weights = MakeRandomModelWeights(config, 7);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(weights.status().message()), ::testing::HasSubstr("MiB available"));
}

}  // namespace
}  // namespace longshelf::engine
