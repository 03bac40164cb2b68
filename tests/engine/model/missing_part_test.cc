#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "kv_parts.h"
#include "testing/fixtures.h"

// Every part of what a sequence resumes from is needed: zeros in the place of any one of them change the logits. So
// what tests find equal to the bit after a resume says something of every part.
namespace longshelf::engine {
namespace {

// Inside a group of every ratio, with more entries than an indexer picks.
constexpr int64_t kTokens = 2 * kBlockTokens + 90;
constexpr int64_t kMore = 60;  // over the end of such a group

class MissingPartTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto weights = LoadModelWeights(testing::ModelPath(GetParam()), nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    auto model = Model::Create(*std::move(weights), ModelOptions{}, transport_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    std::mt19937_64 random(3);
    tokens_.resize(kTokens + kMore);
    for (uint32_t& t : tokens_) {
      t = static_cast<uint32_t>(random() % static_cast<uint64_t>(model_->config().vocab_size));
    }
    before_ = std::make_unique<SequenceMemory>(layout(), kTokens + kMore);
    Process(*before_, 0, kTokens, WantLogits::kNone);
    state_.resize(layout().StateExportBytes(kTokens));
    layout().ExportState(before_->state(), kTokens, state_);
  }

  const KvLayout& layout() const { return model_->layout(); }

  std::vector<float> Process(SequenceMemory& memory, int64_t n_past, int64_t n, WantLogits want) {
    const std::span<const uint32_t> tokens(tokens_);
    const auto out = model_->Forward(
        {{memory.Chunk(n_past, tokens.subspan(static_cast<size_t>(n_past), static_cast<size_t>(n)), want)}});
    EXPECT_TRUE(out.ok()) << out.status();
    return {out->logits.begin(), out->logits.end()};
  }

  // What follows when one goes on with the blocks as they are, but for a part of all, and a state.
  std::vector<float> GoOn(const KvPart& missing, const std::vector<std::byte>& state) {
    SequenceMemory memory(layout(), kTokens + kMore);
    for (size_t i = 0; i < memory.blocks().size(); ++i) {
      std::memcpy(memory.blocks()[i], before_->blocks()[i], layout().block_bytes());
      Zero(missing, memory.blocks()[i]);
    }
    EXPECT_TRUE(layout().ImportState(state, kTokens, memory.state()).ok());
    return Process(memory, kTokens, kMore, WantLogits::kAll);
  }

  static void Zero(const KvPart& part, std::byte* bytes) {
    for (const auto& [offset, n] : part.ranges) std::memset(bytes + offset, 0, n);
  }

  static bool AreSame(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  LocalExpertTransport transport_;
  std::unique_ptr<Model> model_;
  std::vector<uint32_t> tokens_;
  std::unique_ptr<SequenceMemory> before_;
  std::vector<std::byte> state_;
};

TEST_P(MissingPartTest, ZerosInThePlaceOfAnyPartChangeTheLogits) {
  const std::vector<float> whole = GoOn({}, state_);
  ASSERT_EQ(whole.size(), static_cast<size_t>(kMore * model_->config().vocab_size));
  ASSERT_TRUE(AreSame(Process(*before_, kTokens, kMore, WantLogits::kAll), whole)) << "nothing is missing";
  for (const KvPart& part : PartsOfBlock(layout())) {
    EXPECT_FALSE(AreSame(GoOn(part, state_), whole)) << part.name;
  }
  size_t n_bytes = 0;
  for (const KvPart& part : PartsOfState(layout(), model_->config(), kTokens)) {
    std::vector<std::byte> state = state_;
    Zero(part, state.data());
    for (const auto& range : part.ranges) n_bytes += range.second;
    EXPECT_FALSE(AreSame(GoOn({}, state), whole)) << part.name;
  }
  EXPECT_EQ(n_bytes, state_.size()) << "a state has no other parts";
}

INSTANTIATE_TEST_SUITE_P(Models, MissingPartTest, ::testing::Values("micro-flash", "micro-pro", "micro-odd"),
                         [](const auto& param) { return testing::TestNameOf(param.param); });

}  // namespace
}  // namespace longshelf::engine
