#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "testing/fixtures.h"

// The promise that the same request gives the same bits, on the model alone: a row depends on its own sequence only.
namespace longshelf::engine {
namespace {

// A prompt on its way through the model.
class Sequence {
 public:
  Sequence(const KvLayout& layout, std::vector<uint32_t> tokens)
      : tokens_(std::move(tokens)), memory_(layout, static_cast<int64_t>(tokens_.size())) {}
  SequenceChunk Next(int64_t n) {
    n = std::min(n, static_cast<int64_t>(tokens_.size()) - n_past_);
    const auto next = std::span(tokens_).subspan(static_cast<size_t>(n_past_), static_cast<size_t>(n));
    const SequenceChunk chunk = memory_.Chunk(n_past_, next, WantLogits::kAll);
    n_past_ += n;
    return chunk;
  }
  bool done() const { return n_past_ == static_cast<int64_t>(tokens_.size()); }
  const SequenceMemory& memory() const { return memory_; }

 private:
  std::vector<uint32_t> tokens_;
  SequenceMemory memory_;
  int64_t n_past_ = 0;
};

std::vector<uint32_t> RandomTokens(uint32_t vocab, size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> tokens(n);
  for (uint32_t& t : tokens) t = static_cast<uint32_t>(random() % vocab);
  return tokens;
}

class ForwardTest : public ::testing::TestWithParam<std::tuple<const char*, Numerics>> {
 protected:
  std::unique_ptr<Model> Load(int n_threads, const std::string& isa = "") {
    auto weights = LoadModelWeights(testing::ModelPath(std::get<0>(GetParam())), nullptr);
    EXPECT_TRUE(weights.ok()) << weights.status();
    ModelOptions options;
    options.numerics = std::get<1>(GetParam());
    options.n_threads = n_threads;
    options.kernels = isa;
    auto model = Model::Create(std::shared_ptr<const ModelWeights>(std::move(*weights)), options, transport_);
    EXPECT_TRUE(model.ok()) << model.status();
    return std::move(*model);
  }

  // All logits of `tokens`, processed `chunk` at a time.
  static std::vector<float> Run(Model& model, Sequence& sequence, int64_t chunk, int n_microbatches = 1) {
    std::vector<float> logits;
    while (!sequence.done()) {
      const auto out = model.Forward({{sequence.Next(chunk)}, n_microbatches});
      EXPECT_TRUE(out.ok()) << out.status();
      logits.insert(logits.end(), out->logits.begin(), out->logits.end());
    }
    return logits;
  }

  // After n_tokens of both.
  static void ExpectSameKv(const KvLayout& layout, int64_t n_tokens, const Sequence& a, const Sequence& b,
                           const std::string& what) {
    EXPECT_EQ(a.memory().storage(), b.memory().storage()) << "blocks, " << what;
    const auto state_of = [&](const Sequence& sequence) {
      std::vector<std::byte> state(layout.StateExportBytes(n_tokens));
      layout.ExportState(sequence.memory().state(), n_tokens, state);
      return state;
    };
    EXPECT_EQ(state_of(a), state_of(b)) << "state, " << what;
  }

  static bool SameBits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  LocalExpertTransport transport_;
};

TEST_P(ForwardTest, SameBitsForEveryChunkSizeThreadCountAndKernel) {
  constexpr size_t kTokens = 300;
  const std::unique_ptr<Model> model = Load(1);
  const auto tokens = RandomTokens(static_cast<uint32_t>(model->config().vocab_size), kTokens, 7);
  Sequence whole(model->layout(), tokens);
  const std::vector<float> expected = Run(*model, whole, kTokens);
  for (const int64_t chunk : {1, 3, 7, 64, 127, 128, 129, 256}) {
    Sequence sequence(model->layout(), tokens);
    EXPECT_TRUE(SameBits(Run(*model, sequence, chunk), expected)) << "chunk " << chunk;
    ExpectSameKv(model->layout(), kTokens, sequence, whole, "chunk " + std::to_string(chunk));
  }
  for (const std::string& isa : AvailableKernels()) {
    const std::unique_ptr<Model> other = Load(2, isa);
    // One scalar at a time is slow: past the first windows and groups is enough.
    const size_t n = isa == "portable" ? 150 : kTokens;
    Sequence sequence(other->layout(), {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)});
    const std::vector<float> first(expected.begin(),
                                   expected.begin() + static_cast<std::ptrdiff_t>(n * expected.size() / kTokens));
    EXPECT_TRUE(SameBits(Run(*other, sequence, 129), first)) << isa << ", 2 threads";
  }
}

TEST_P(ForwardTest, SameBitsAloneAndBesideFifteenOthers) {
  const std::unique_ptr<Model> model = Load(2);
  const auto vocab = static_cast<uint32_t>(model->config().vocab_size);
  const auto tokens = RandomTokens(vocab, 200, 11);
  Sequence alone(model->layout(), tokens);
  const std::vector<float> expected = Run(*model, alone, 50);

  Sequence among(model->layout(), tokens);
  std::vector<std::unique_ptr<Sequence>> others;
  for (uint64_t i = 0; i < 15; ++i) {
    others.push_back(std::make_unique<Sequence>(model->layout(), RandomTokens(vocab, 140 + 10 * i, 100 + i)));
  }
  std::vector<float> logits;
  while (!among.done()) {
    ForwardBatch batch;
    for (size_t i = 0; i < 8; ++i) {
      if (!others[i]->done()) batch.chunks.push_back(others[i]->Next(static_cast<int64_t>(i) + 1));
    }
    size_t before = 0;
    for (const SequenceChunk& chunk : batch.chunks) before += chunk.tokens.size();
    const SequenceChunk own = among.Next(50);
    batch.chunks.push_back(own);
    for (size_t i = 8; i < others.size(); ++i) {
      if (!others[i]->done()) batch.chunks.push_back(others[i]->Next(17));
    }
    const auto out = model->Forward(batch);
    ASSERT_TRUE(out.ok()) << out.status();
    const auto first = out->logits.begin() + static_cast<int64_t>(before * vocab);
    logits.insert(logits.end(), first, first + static_cast<int64_t>(own.tokens.size() * vocab));
  }
  EXPECT_TRUE(SameBits(logits, expected));
}

TEST_P(ForwardTest, SameBitsInTwoMicrobatchesWhereverTheirBoundaryFalls) {
  constexpr size_t kTokens = 300;
  const std::unique_ptr<Model> model = Load(2);
  const auto tokens = RandomTokens(static_cast<uint32_t>(model->config().vocab_size), kTokens, 8);
  Sequence whole(model->layout(), tokens);
  const std::vector<float> expected = Run(*model, whole, kTokens);
  // Shorter ones than 32 are not cut: the second half has no rows then.
  for (const int64_t chunk : {1, 31, 32, 33, 129, 256, 300}) {
    Sequence sequence(model->layout(), tokens);
    EXPECT_TRUE(SameBits(Run(*model, sequence, chunk, 2), expected)) << "chunk " << chunk;
    ExpectSameKv(model->layout(), kTokens, sequence, whole, "chunk " + std::to_string(chunk));
  }
  // Beside others, at every place in the batch.
  for (int place = 0; place < 4; ++place) {
    Sequence sequence(model->layout(), tokens);
    std::vector<std::unique_ptr<Sequence>> others;
    for (int i = 0; i < 3; ++i) {
      others.push_back(std::make_unique<Sequence>(
          model->layout(), RandomTokens(static_cast<uint32_t>(model->config().vocab_size), 200, 90 + place * 3 + i)));
    }
    std::vector<float> logits;
    while (!sequence.done()) {
      ForwardBatch batch{{}, 2};
      size_t n_before = 0;
      for (int i = 0; i < 4; ++i) {
        if (i == place) batch.chunks.push_back(sequence.Next(100));
        if (i == 3 || others[static_cast<size_t>(i)]->done()) continue;
        batch.chunks.push_back(others[static_cast<size_t>(i)]->Next(40 * i + 1));
        if (i < place) n_before += batch.chunks.back().tokens.size();
      }
      const auto out = model->Forward(batch);
      ASSERT_TRUE(out.ok()) << out.status();
      const size_t vocab = static_cast<size_t>(model->config().vocab_size);
      const auto own = out->logits.subspan(n_before * vocab, 100 * vocab);
      logits.insert(logits.end(), own.begin(), own.end());
    }
    EXPECT_TRUE(SameBits(logits, expected)) << "place " << place;
    ExpectSameKv(model->layout(), kTokens, sequence, whole, "place " + std::to_string(place));
  }
}

TEST_P(ForwardTest, MoreMicrobatchesThanTheTransportHasLanesAreRefused) {
  const std::unique_ptr<Model> model = Load(1);
  Sequence sequence(model->layout(), RandomTokens(static_cast<uint32_t>(model->config().vocab_size), 64, 8));
  EXPECT_EQ(model->Forward({{sequence.Next(64)}, 3}).status().code(), absl::StatusCode::kInternal);
}

TEST_P(ForwardTest, ContinuesWithTheSameBitsFromAnExportedState) {
  const std::unique_ptr<Model> model = Load(1);
  const auto tokens = RandomTokens(static_cast<uint32_t>(model->config().vocab_size), 300, 13);
  Sequence straight(model->layout(), tokens);
  const std::vector<float> expected = Run(*model, straight, 300);
  Sequence first(model->layout(), tokens);  // goes on from cut to cut
  int64_t n_done = 0;
  for (const int64_t cut : {1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 299}) {
    ASSERT_TRUE(model->Forward({{first.Next(cut - std::exchange(n_done, cut))}}).ok());
    std::vector<std::byte> state(model->layout().StateExportBytes(cut));
    model->layout().ExportState(first.memory().state(), cut, state);

    SequenceMemory resumed(model->layout(), 300);
    ASSERT_TRUE(model->layout().ImportState(state, cut, resumed.state()).ok());
    for (size_t i = 0; i < resumed.blocks().size(); ++i) {
      std::memcpy(resumed.blocks()[i], first.memory().blocks()[i], model->layout().block_bytes());
    }
    const auto rest = std::span(tokens).subspan(static_cast<size_t>(cut));
    const auto out = model->Forward({{resumed.Chunk(cut, rest, WantLogits::kAll)}});
    ASSERT_TRUE(out.ok()) << out.status();
    const auto vocab = static_cast<size_t>(model->config().vocab_size);
    const std::vector<float> tail(expected.begin() + static_cast<int64_t>(static_cast<size_t>(cut) * vocab),
                                  expected.end());
    EXPECT_TRUE(SameBits(out->logits, tail)) << "cut at " << cut;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardTest,
                         ::testing::Combine(::testing::Values("micro-flash", "micro-pro", "micro-odd", "demo"),
                                            ::testing::Values(Numerics::kNative, Numerics::kFp32)),
                         [](const auto& param) {
                           return testing::TestNameOf(std::get<0>(param.param)) +
                                  (std::get<1>(param.param) == Numerics::kNative ? "_native" : "_fp32");
                         });

}  // namespace
}  // namespace longshelf::engine
