#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "testing/fixtures.h"

// A state rebuilt from blocks: the same bits as the one that was there when the tokens were first processed, in
// whatever chunks, and no bit of the blocks is touched.
namespace longshelf::engine {
namespace {

constexpr int64_t kTokens = 1024;  // a multiple of the block size; more than any of the models replays

class ReplayTest : public ::testing::TestWithParam<std::tuple<const char*, Numerics>> {
 protected:
  void SetUp() override {
    auto weights = LoadModelWeights(testing::ModelPath(std::get<0>(GetParam())), nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    ModelOptions options;
    options.numerics = std::get<1>(GetParam());
    auto model = Model::Create(*std::move(weights), options, transport_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    tokens_.resize(kTokens + kMore);
    for (uint32_t& t : tokens_) {
      t = static_cast<uint32_t>(random_() % static_cast<uint64_t>(model_->config().vocab_size));
    }
    cold_ = std::make_unique<SequenceMemory>(model_->layout(), kTokens + kMore);
    for (int64_t n_past = 0; n_past < kTokens; n_past += 512) Process(*cold_, n_past, 512, -1, WantLogits::kNone);
    expected_ = Export(*cold_);
  }

  void Process(SequenceMemory& memory, int64_t n_past, int64_t n, int64_t replay_begin, WantLogits want) {
    SequenceChunk chunk =
        memory.Chunk(n_past, std::span(tokens_).subspan(static_cast<size_t>(n_past), static_cast<size_t>(n)), want);
    chunk.replay_begin = replay_begin;
    const auto out = model_->Forward({{chunk}});
    ASSERT_TRUE(out.ok()) << out.status();
    logits_.assign(out->logits.begin(), out->logits.end());
  }

  std::vector<std::byte> Export(const SequenceMemory& memory) const {
    std::vector<std::byte> out(model_->layout().StateExportBytes(kTokens));
    model_->layout().ExportState(memory.state(), kTokens, out);
    return out;
  }

  // A sequence that has the blocks and nothing else, replayed from `begin` on in chunks of 1 to n_max.
  std::unique_ptr<SequenceMemory> Replay(int64_t begin, int64_t n_max) {
    auto memory = std::make_unique<SequenceMemory>(model_->layout(), kTokens + kMore);
    for (size_t i = 0; i < memory->blocks().size(); ++i) {
      std::memcpy(memory->blocks()[i], cold_->blocks()[i], model_->layout().block_bytes());
    }
    for (int64_t n_past = begin; n_past < kTokens;) {
      const int64_t n = std::min(1 + static_cast<int64_t>(random_() % static_cast<uint64_t>(n_max)), kTokens - n_past);
      Process(*memory, n_past, n, begin, WantLogits::kNone);
      n_past += n;
    }
    return memory;
  }

  static constexpr int64_t kMore = 40;
  LocalExpertTransport transport_;
  std::unique_ptr<Model> model_;
  std::vector<uint32_t> tokens_;
  std::vector<float> logits_;
  std::mt19937_64 random_{5};
  std::vector<std::byte> expected_;
  std::unique_ptr<SequenceMemory> cold_;
};

// One run for all of it: what a cold sequence takes is what this test takes.
TEST_P(ReplayTest, RebuildsTheStateToTheBitFromJustEnoughTokensAndTheAnswerGoesOn) {
  const int64_t n_layers = model_->config().n_layers;
  const int64_t n_window = model_->config().window;
  // Each layer's window is right only where the windows below it were: nothing less than that does.
  const int64_t n_least = (n_layers - 1) * (n_window - 1) + n_window;
  ASSERT_LE(n_least, model_->replay_tokens());
  const auto in_small_chunks = Replay(kTokens - model_->replay_tokens(), 60);
  const auto in_large_chunks = Replay(kTokens - n_least, 1000);
  for (const SequenceMemory* memory : {in_small_chunks.get(), in_large_chunks.get()}) {
    EXPECT_TRUE(Export(*memory) == expected_);
    EXPECT_TRUE(memory->storage() == cold_->storage()) << "no bit of the blocks is touched";
  }
  EXPECT_TRUE(Export(*Replay(kTokens - n_window, 300)) != expected_) << "fewer are not enough";

  Process(*cold_, kTokens, kMore, -1, WantLogits::kAll);
  const std::vector<float> expected = logits_;
  for (SequenceMemory* memory : {in_small_chunks.get(), in_large_chunks.get()}) {
    Process(*memory, kTokens, kMore, -1, WantLogits::kAll);
    ASSERT_EQ(logits_.size(), expected.size());
    EXPECT_EQ(std::memcmp(logits_.data(), expected.data(), expected.size() * sizeof(float)), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ReplayTest,
                         ::testing::Combine(::testing::Values("micro-flash", "micro-pro", "micro-odd", "demo"),
                                            ::testing::Values(Numerics::kNative, Numerics::kFp32)),
                         [](const auto& param) {
                           return testing::TestNameOf(std::get<0>(param.param)) +
                                  (std::get<1>(param.param) == Numerics::kNative ? "_native" : "_fp32");
                         });

}  // namespace
}  // namespace longshelf::engine
