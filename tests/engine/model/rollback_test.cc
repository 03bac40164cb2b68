#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "testing/fixtures.h"

// Tokens that were taken back leave no trace: logits, exports and blocks of a sequence that guessed wrong all the time
// are those of one that never guessed.
namespace longshelf::engine {
namespace {

constexpr int64_t kDraftMax = 9;
constexpr int64_t kTokens = 400;  // past every phase of 128, and of the window's ring with its slack

struct Step {
  int64_t n_kept;
  int64_t n_taken_back;
};

class RollbackTest : public ::testing::TestWithParam<std::tuple<const char*, Numerics>> {
 protected:
  void SetUp() override {
    auto weights = LoadModelWeights(testing::ModelPath(std::get<0>(GetParam())), nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = std::move(*weights);
    plain_ = Create(0);
    drafting_ = Create(kDraftMax);
    tokens_.resize(kTokens);
    for (uint32_t& t : tokens_) t = RandomToken();
  }

  std::unique_ptr<Model> Create(int64_t n_draft_max) {
    ModelOptions options;
    options.numerics = std::get<1>(GetParam());
    options.n_draft_max = n_draft_max;
    return Model::Create(weights_, options, transport_).value();
  }

  uint32_t RandomToken() {
    return static_cast<uint32_t>(random_() % static_cast<uint64_t>(weights_->config.vocab_size));
  }
  int64_t RandomUpTo(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n + 1)); }

  static std::vector<std::byte> Export(const Model& model, const SequenceMemory& memory, int64_t n_tokens) {
    std::vector<std::byte> out(model.layout().StateExportBytes(n_tokens));
    model.layout().ExportState(memory.state(), n_tokens, out);
    return out;
  }

  // Blocks as they are exported after n_tokens.
  static std::vector<std::byte> Blocks(const Model& model, const SequenceMemory& memory, int64_t n_tokens) {
    std::vector<std::byte> out = memory.storage();
    for (size_t i = 0; i < out.size() / model.layout().block_bytes(); ++i) {
      const int64_t n_in_block =
          std::clamp<int64_t>(n_tokens - static_cast<int64_t>(i) * kBlockTokens, 0, kBlockTokens);
      model.layout().ClearTail(out.data() + i * model.layout().block_bytes(), n_in_block);
    }
    return out;
  }

  // Reads tokens_ in steps, each with other tokens behind it that are taken back.
  void RunBothWays(const std::function<Step(int64_t n_past)>& next) {
    SequenceMemory straight(plain_->layout(), kTokens);
    SequenceMemory guessing(drafting_->layout(), kTokens + kDraftMax);
    for (int64_t n_past = 0; n_past < kTokens;) {
      const Step step = next(n_past);
      const auto piece = std::span(tokens_).subspan(static_cast<size_t>(n_past), static_cast<size_t>(step.n_kept));
      std::vector<uint32_t> with_drafts(piece.begin(), piece.end());
      for (int64_t i = 0; i < step.n_taken_back; ++i) with_drafts.push_back(RandomToken());
      const auto expected = plain_->Forward({{straight.Chunk(n_past, piece, WantLogits::kAll)}});
      const auto out = drafting_->Forward({{guessing.Chunk(n_past, with_drafts, WantLogits::kAll)}});
      ASSERT_TRUE(expected.ok() && out.ok()) << out.status();
      n_past += step.n_kept;
      ASSERT_EQ(out->n_rows, step.n_kept + step.n_taken_back);
      ASSERT_EQ(std::memcmp(out->logits.data(), expected->logits.data(), expected->logits.size_bytes()), 0)
          << "logits before " << n_past;
      ASSERT_EQ(Export(*drafting_, guessing, n_past), Export(*plain_, straight, n_past)) << "state of " << n_past;
      std::vector<std::byte> blocks = Blocks(*drafting_, guessing, n_past);
      blocks.resize(straight.storage().size());
      ASSERT_EQ(blocks, Blocks(*plain_, straight, n_past)) << "blocks of " << n_past;
    }
  }

  LocalExpertTransport transport_;
  std::shared_ptr<const ModelWeights> weights_;
  std::unique_ptr<Model> plain_;
  std::unique_ptr<Model> drafting_;
  std::vector<uint32_t> tokens_;
  std::mt19937_64 random_{23};
};

TEST_P(RollbackTest, TakenBackAfterEveryToken) {
  RunBothWays([&](int64_t) { return Step{1, RandomUpTo(kDraftMax)}; });
}

TEST_P(RollbackTest, TakenBackAfterPiecesOfEverySize) {
  RunBothWays([&](int64_t n_past) {
    return Step{std::min(1 + RandomUpTo(n_past < 100 ? 4 : 150), kTokens - n_past), RandomUpTo(kDraftMax)};
  });
}

TEST_P(RollbackTest, ExportsAreNotChangedByTheRoomForDrafts) {
  EXPECT_EQ(plain_->layout().Describe(), drafting_->layout().Describe());
  EXPECT_EQ(plain_->fingerprint(), drafting_->fingerprint());
  EXPECT_EQ(plain_->layout().block_bytes(), drafting_->layout().block_bytes());
  EXPECT_LT(plain_->layout().state_bytes(), drafting_->layout().state_bytes());
  // A state goes from one to the other and back.
  SequenceMemory from(plain_->layout(), kTokens);
  ASSERT_TRUE(plain_->Forward({{from.Chunk(0, tokens_, WantLogits::kNone)}}).ok());
  const std::vector<std::byte> state = Export(*plain_, from, kTokens);
  SequenceMemory to(drafting_->layout(), kTokens);
  ASSERT_TRUE(drafting_->layout().ImportState(state, kTokens, to.state()).ok());
  EXPECT_EQ(Export(*drafting_, to, kTokens), state);
}

TEST_P(RollbackTest, RoomForDraftsIsBounded) {
  for (const int64_t n : {int64_t{-1}, kDraftTokensLimit + 1}) {
    ModelOptions options;
    options.n_draft_max = n;
    EXPECT_EQ(Model::Create(weights_, options, transport_).status().code(), absl::StatusCode::kInvalidArgument) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RollbackTest,
                         ::testing::Combine(::testing::Values("micro-flash", "micro-pro", "micro-odd"),
                                            ::testing::Values(Numerics::kNative, Numerics::kFp32)),
                         [](const auto& param) {
                           return testing::TestNameOf(std::get<0>(param.param)) +
                                  (std::get<1>(param.param) == Numerics::kNative ? "_native" : "_fp32");
                         });

}  // namespace
}  // namespace longshelf::engine
