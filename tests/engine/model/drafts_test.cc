#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/dspark_parts.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "testing/fixtures.h"

// Guesses of the draft modules: the same bits however a sequence was read, never garbage, and no trace in what the main
// model computes. Whether they are the published ones is judged by reference vectors (verify).
namespace longshelf::engine {
namespace {

constexpr int64_t kDraftMax = 5;
constexpr int64_t kTokens = 300;  // past the window and its ring

class CountingTransport final : public ForwardingExpertTransport {
 public:
  using ForwardingExpertTransport::ForwardingExpertTransport;
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override {
    ++n_exchanges;
    return ForwardingExpertTransport::BeginDispatch(lane, layer, rows, row_bytes, assignments);
  }
  int n_exchanges = 0;
};

struct Guessed {
  std::vector<uint32_t> tokens;
  std::vector<float> confidence;
  bool operator==(const Guessed& other) const {
    return tokens == other.tokens && confidence.size() == other.confidence.size() &&
           std::memcmp(confidence.data(), other.confidence.data(), confidence.size() * sizeof(float)) == 0;
  }
};

class DraftsTest : public ::testing::TestWithParam<std::tuple<DrafterKind, Numerics>> {
 protected:
  void SetUp() override {
    if (kind() == DrafterKind::kMtp) {
      weights_ = std::move(*LoadModelWeights(testing::ModelPath("micro-flash"), nullptr));
    } else {
      const auto config = LoadModelConfig(testing::FixturePath("configs/micro-dspark"));
      weights_ = std::move(*MakeRandomModelWeights(*config, 3));
    }
    model_ = Create(kind(), 1);
    tokens_.resize(kTokens + kDraftMax);
    for (uint32_t& t : tokens_) t = RandomToken();
  }

  static DrafterKind kind() { return std::get<0>(GetParam()); }

  std::unique_ptr<Model> Create(DrafterKind drafter, int n_threads, const std::string& kernels = "") {
    ModelOptions options;
    options.numerics = std::get<1>(GetParam());
    options.n_threads = n_threads;
    options.n_draft_max = kDraftMax;
    options.drafter = drafter;
    options.kernels = kernels;
    return Model::Create(weights_, options, transport_).value();
  }

  uint32_t RandomToken() {
    return static_cast<uint32_t>(random_() % static_cast<uint64_t>(weights_->config.vocab_size));
  }
  int64_t RandomUpTo(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n + 1)); }
  std::span<const uint32_t> Piece(int64_t begin, int64_t n) const {
    return std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(n));
  }

  static Guessed Take(const absl::StatusOr<DraftOutput>& out) {
    EXPECT_TRUE(out.ok()) << out.status();
    if (!out.ok()) return {};
    return {{out->tokens.begin(), out->tokens.end()}, {out->confidence.begin(), out->confidence.end()}};
  }

  // Guesses after tokens [0, n), read in one step from n_past on.
  Guessed GuessAfter(Model& model, SequenceMemory& memory, int64_t n_past, int64_t n, int64_t n_tokens = kDraftMax,
                     int n_microbatches = 1) {
    EXPECT_TRUE(
        model.Forward({{memory.Chunk(n_past, Piece(n_past, n - n_past), WantLogits::kLast)}, n_microbatches}).ok());
    const DraftRequest request{0, n - n_past, tokens_[static_cast<size_t>(n)]};
    return Take(model.Draft({&request, 1}, n_tokens));
  }
  Guessed GuessAfter(int64_t n) {
    SequenceMemory memory(model_->layout(), kTokens);
    return GuessAfter(*model_, memory, 0, n);
  }

  LocalExpertTransport local_;
  CountingTransport transport_{local_};
  std::shared_ptr<const ModelWeights> weights_;
  std::unique_ptr<Model> model_;
  std::vector<uint32_t> tokens_;
  std::mt19937_64 random_{29};
};

TEST_P(DraftsTest, TheSameGuessesWhenAStepIsReadInTwoMicrobatches) {
  for (const int64_t n : {40, 64, 131, 290}) {
    SequenceMemory memory(model_->layout(), kTokens);
    EXPECT_EQ(GuessAfter(*model_, memory, 0, n, kDraftMax, /*n_microbatches=*/2), GuessAfter(n)) << n << " tokens";
  }
}

TEST_P(DraftsTest, AreTheSameWhereverTheStepsWereCutAndWhateverWasTakenBack) {
  SequenceMemory memory(model_->layout(), kTokens + kDraftMax);
  for (int64_t n_past = 0; n_past < 200;) {
    const int64_t n_kept = 1 + RandomUpTo(n_past < 20 ? 2 : 40);
    std::vector<uint32_t> with_drafts(Piece(n_past, n_kept).begin(), Piece(n_past, n_kept).end());
    for (int64_t i = RandomUpTo(kDraftMax); i > 0; --i) with_drafts.push_back(RandomToken());
    ASSERT_TRUE(model_->Forward({{memory.Chunk(n_past, with_drafts, WantLogits::kAll)}}).ok());
    n_past += n_kept;
    const DraftRequest request{0, n_kept, tokens_[static_cast<size_t>(n_past)]};
    const Guessed guessed = Take(model_->Draft({&request, 1}, kDraftMax));
    ASSERT_EQ(guessed.tokens.size(), static_cast<size_t>(kDraftMax));
    ASSERT_EQ(guessed, GuessAfter(n_past)) << "after " << n_past;
  }
}

TEST_P(DraftsTest, AreTheSameWhenPromptsWereReadWithoutARequest) {
  for (const int64_t cut : {1, 2, 100, 128, 129, 250}) {
    SequenceMemory memory(model_->layout(), kTokens);
    ASSERT_TRUE(model_->Forward({{memory.Chunk(0, Piece(0, cut), WantLogits::kNone)}}).ok());
    ASSERT_TRUE(model_->Draft({}, cut % 2 == 0 ? 0 : kDraftMax).ok());
    EXPECT_EQ(GuessAfter(*model_, memory, cut, 260), GuessAfter(260)) << "cut at " << cut;
  }
}

TEST_P(DraftsTest, AreTheSameAmongOthersInAnyOrderOfRequests) {
  const Guessed expected = GuessAfter(200);
  for (const bool reversed : {false, true}) {
    std::vector<std::unique_ptr<SequenceMemory>> memories;
    ForwardBatch batch;
    for (int64_t i = 0; i < 5; ++i) {
      memories.push_back(std::make_unique<SequenceMemory>(model_->layout(), kTokens));
      const int64_t n = i == 2 ? 200 : 20 + 30 * i;
      batch.chunks.push_back(memories.back()->Chunk(0, Piece(0, n), WantLogits::kLast));
    }
    ASSERT_TRUE(model_->Forward(batch).ok());
    std::vector<DraftRequest> requests = {{0, 20, 7}, {2, 200, tokens_[200]}, {4, 140, 9}};
    if (reversed) std::swap(requests[0], requests[1]);
    const Guessed all = Take(model_->Draft(requests, kDraftMax));
    const std::ptrdiff_t at = reversed ? 0 : kDraftMax;
    EXPECT_EQ((Guessed{{all.tokens.begin() + at, all.tokens.begin() + at + kDraftMax},
                       {all.confidence.begin() + at, all.confidence.begin() + at + kDraftMax}}),
              expected);
  }
}

TEST_P(DraftsTest, AreTheSameOnAnyThreadsAndKernelsAndFewerAreTheFirstOfMany) {
  const Guessed expected = GuessAfter(200);
  for (const std::string& kernels : AvailableKernels()) {
    const std::unique_ptr<Model> other = Create(kind(), 2, kernels);
    SequenceMemory memory(other->layout(), kTokens);
    EXPECT_EQ(GuessAfter(*other, memory, 0, 200), expected) << kernels;
  }
  SequenceMemory memory(model_->layout(), kTokens);
  const Guessed two = GuessAfter(*model_, memory, 0, 200, 2);
  EXPECT_EQ(two, (Guessed{{expected.tokens.begin(), expected.tokens.begin() + 2},
                          {expected.confidence.begin(), expected.confidence.begin() + 2}}));
}

TEST_P(DraftsTest, DependOnWhatTheWindowHoldsOnly) {
  const Guessed expected = GuessAfter(280);
  // What was said before the window changes the main model's streams, but a drafter that saw none of it, as after an
  // import, agrees with one whose window has left it behind.
  SequenceMemory read(model_->layout(), kTokens);
  ASSERT_TRUE(model_->Forward({{read.Chunk(0, Piece(0, 100), WantLogits::kNone)}}).ok());
  std::vector<std::byte> state(model_->layout().StateExportBytes(100));
  model_->layout().ExportState(read.state(), 100, state);
  SequenceMemory imported(model_->layout(), kTokens);
  std::memcpy(imported.blocks()[0], read.blocks()[0], model_->layout().block_bytes());
  ASSERT_TRUE(model_->layout().ImportState(state, 100, imported.state()).ok());
  EXPECT_EQ(GuessAfter(*model_, imported, 100, 280), expected);
}

TEST_P(DraftsTest, NothingIsReadOfASlotsFormerUseNorOfStepsThatWentByUnseen) {
  SequenceMemory read(model_->layout(), kTokens);
  ASSERT_TRUE(model_->Forward({{read.Chunk(0, Piece(0, 100), WantLogits::kNone)}}).ok());
  std::vector<std::byte> state(model_->layout().StateExportBytes(100));
  model_->layout().ExportState(read.state(), 100, state);
  const auto guess = [&](bool used_before) {
    SequenceMemory memory(model_->layout(), kTokens);
    if (used_before) {
      std::memset(memory.state(), 0x7F, model_->layout().state_bytes());
    }
    std::memcpy(memory.blocks()[0], read.blocks()[0], model_->layout().block_bytes());
    EXPECT_TRUE(model_->layout().ImportState(state, 100, memory.state()).ok());
    return GuessAfter(*model_, memory, 100, 110);
  };
  const Guessed fresh = guess(false);
  EXPECT_EQ(guess(true), fresh);
  EXPECT_NE(fresh, GuessAfter(110)) << "a drafter that saw ten tokens cannot know all";
  // Drafts were off for 60 tokens: it begins again, as after an import.
  SequenceMemory paused(model_->layout(), kTokens);
  GuessAfter(*model_, paused, 0, 40);
  ASSERT_TRUE(model_->Forward({{paused.Chunk(40, Piece(40, 60), WantLogits::kNone)}}).ok());
  EXPECT_EQ(GuessAfter(*model_, paused, 100, 110), fresh);
}

TEST_P(DraftsTest, LeaveNoTraceInWhatTheMainModelComputes) {
  const std::unique_ptr<Model> plain = Create(DrafterKind::kNone, 1);
  EXPECT_EQ(plain->fingerprint(), model_->fingerprint());
  SequenceMemory a(plain->layout(), kTokens);
  SequenceMemory b(model_->layout(), kTokens);
  for (const auto& [begin, n] : {std::pair<int64_t, int64_t>{0, 150}, {150, 1}, {151, 49}}) {
    const auto expected = plain->Forward({{a.Chunk(begin, Piece(begin, n), WantLogits::kAll)}});
    const auto out = model_->Forward({{b.Chunk(begin, Piece(begin, n), WantLogits::kAll)}});
    ASSERT_TRUE(expected.ok() && out.ok());
    EXPECT_EQ(std::memcmp(out->logits.data(), expected->logits.data(), expected->logits.size_bytes()), 0);
    const DraftRequest request{0, n, 3};
    ASSERT_TRUE(model_->Draft({&request, 1}, kDraftMax).ok());
    std::vector<std::byte> states[2];
    for (std::vector<std::byte>& s : states) s.resize(plain->layout().StateExportBytes(begin + n));
    ASSERT_EQ(model_->layout().StateExportBytes(begin + n), states[1].size());
    plain->layout().ExportState(a.state(), begin + n, states[0]);
    model_->layout().ExportState(b.state(), begin + n, states[1]);
    EXPECT_EQ(states[0], states[1]);
    EXPECT_EQ(a.storage(), b.storage());
  }
}

TEST_P(DraftsTest, ExchangeExpertsAsOftenWithAndWithoutRequests) {
  for (const int64_t n_tokens : {0, 1, 3, 5}) {
    const auto count = [&](bool request, bool rows) {
      SequenceMemory memory(model_->layout(), kTokens);
      ForwardBatch batch;
      if (rows) batch.chunks.push_back(memory.Chunk(0, Piece(0, 9), WantLogits::kNone));
      EXPECT_TRUE(model_->Forward(batch).ok());
      transport_.n_exchanges = 0;
      const DraftRequest one{0, 9, 3};
      EXPECT_TRUE(model_->Draft({&one, request ? size_t{1} : size_t{0}}, n_tokens).ok());
      return transport_.n_exchanges;
    };
    const int64_t expected = kind() == DrafterKind::kMtp ? n_tokens : n_tokens > 0 ? 3 : 0;
    EXPECT_EQ(count(true, true), expected);
    EXPECT_EQ(count(false, true), expected);
    EXPECT_EQ(count(false, false), expected);
  }
}

TEST_P(DraftsTest, RefuseRequestsThatDoNotFitTheStep) {
  SequenceMemory memory(model_->layout(), kTokens);
  const auto refused = [&](const DraftRequest& request, int64_t n_tokens) {
    EXPECT_TRUE(model_->Forward({{memory.Chunk(0, Piece(0, 20), WantLogits::kNone)}}).ok());
    return model_->Draft({&request, 1}, n_tokens).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({1, 20, 3}, 1));
  EXPECT_TRUE(refused({0, 21, 3}, 1));
  EXPECT_TRUE(refused({0, 14, 3}, 1));  // more taken back than there is room for
  EXPECT_TRUE(refused({0, 0, 3}, 1));
  EXPECT_TRUE(refused({0, 20, 512}, 1));
  EXPECT_TRUE(refused({0, 20, 3}, kDraftMax + 1));
  EXPECT_TRUE(refused({0, 20, 3}, -1));
  EXPECT_FALSE(refused({0, 15, 3}, 1));
  EXPECT_EQ(model_->Draft({}, 0).status().code(), absl::StatusCode::kFailedPrecondition) << "twice after a step";
  ASSERT_TRUE(model_->Forward({{memory.Chunk(0, Piece(0, 20), WantLogits::kNone)}}).ok());
  const DraftRequest twice[] = {{0, 20, 3}, {0, 20, 4}};
  EXPECT_EQ(model_->Draft(twice, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(DraftsTest, NeedTheirModuleAndRoom) {
  ModelOptions options;
  options.n_draft_max = 1;
  options.drafter = kind() == DrafterKind::kMtp ? DrafterKind::kDspark : DrafterKind::kMtp;
  EXPECT_EQ(Model::Create(weights_, options, transport_).status().code(), absl::StatusCode::kFailedPrecondition);
  options.drafter = kind();
  EXPECT_EQ(Model::Create(weights_, options, transport_).value()->n_draft(), 1);
  options.n_draft_max = 0;
  EXPECT_EQ(Model::Create(weights_, options, transport_).status().code(), absl::StatusCode::kInvalidArgument);
  options.drafter = DrafterKind::kNone;
  const auto none = Model::Create(weights_, options, transport_).value();
  EXPECT_EQ(none->n_draft(), 0);
  EXPECT_EQ(none->Draft({}, 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

class Taps final : public TapSink {
 public:
  void Tap(std::string_view name, std::span<const float> values, int64_t) override {
    taken[std::string(name)].assign(values.begin(), values.end());
  }
  std::map<std::string, std::vector<float>> taken;
};

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// verify judges a DSpark module part by part: put together they are what is served.
class DsparkTest : public DraftsTest {};

TEST_P(DsparkTest, GuessesAreThePartsOneAfterAnother) {
  constexpr int64_t kRead = 200;
  const ModelConfig& config = model_->config();
  SequenceMemory served(model_->layout(), kTokens);
  ASSERT_TRUE(model_->Forward({{served.Chunk(0, Piece(0, kRead), WantLogits::kNone)}}).ok());
  const DraftRequest request{0, kRead, tokens_[kRead]};
  Taps taps;
  const Guessed expected = Take(model_->Draft({&request, 1}, kDraftMax, &taps));

  DsparkParts parts(*model_);
  SequenceMemory memory(model_->layout(), kTokens);
  std::vector<float> streams = model_->Embed(Piece(0, kRead));
  std::vector<std::vector<float>> targets;
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    ASSERT_TRUE(model_->ForwardLayer(layer, memory.Chunk(0, Piece(0, kRead), WantLogits::kNone), streams).ok());
    if (layer >= 2) targets.push_back(streams);
  }
  const std::vector<float> main_x = parts.MainX(parts.MainHidden(targets, kRead), kRead);
  parts.Store(main_x, 0, kRead, memory.state());
  EXPECT_EQ(parts.Window(1, memory.state(), kRead), parts.Window(1, served.state(), kRead));
  std::vector<float> block = parts.EmbedBlock(tokens_[kRead]);
  for (int64_t stage = 0; stage < config.dspark.n_stages; ++stage) {
    block = parts.RunStage(stage, kRead - 1, memory.state(), block).value();
  }
  const std::vector<float> hidden = parts.Hidden(block, kDraftMax);
  const std::vector<float> base = parts.BaseLogits(hidden, kDraftMax);
  EXPECT_TRUE(SameBits(base, taps.taken["draft.base_logits"]));
  std::vector<uint32_t> before = {tokens_[kRead]};
  before.insert(before.end(), expected.tokens.begin(), expected.tokens.end() - 1);
  const std::vector<float> logits = parts.Logits(base, before);
  EXPECT_TRUE(SameBits(logits, taps.taken["draft.logits"]));
  EXPECT_TRUE(SameBits(parts.Confidence(hidden, before), expected.confidence));
  for (int64_t i = 0; i < kDraftMax; ++i) {
    const auto row = logits.begin() + i * config.vocab_size;
    EXPECT_EQ(std::max_element(row, row + config.vocab_size) - row, expected.tokens[static_cast<size_t>(i)]);
  }
}

INSTANTIATE_TEST_SUITE_P(Numerics, DsparkTest,
                         ::testing::Combine(::testing::Values(DrafterKind::kDspark),
                                            ::testing::Values(Numerics::kNative, Numerics::kFp32)),
                         [](const auto& param) { return std::string(NumericsName(std::get<1>(param.param))); });

INSTANTIATE_TEST_SUITE_P(Drafters, DraftsTest,
                         ::testing::Combine(::testing::Values(DrafterKind::kMtp, DrafterKind::kDspark),
                                            ::testing::Values(Numerics::kNative, Numerics::kFp32)),
                         [](const auto& param) {
                           return std::string(DrafterName(std::get<0>(param.param))) + "_" +
                                  std::string(NumericsName(std::get<1>(param.param)));
                         });

}  // namespace
}  // namespace longshelf::engine
