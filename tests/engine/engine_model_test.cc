// The engine over real checkpoints: the reference's completions, and the same bits whatever path a request takes.

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/executor.h"
#include "engine/model/model.h"
#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_feed.h"
#include "fake_model.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

const FakeHasher kHasher;

// Loaded once per test program.
std::shared_ptr<const ModelWeights> Weights(const std::string& model_name) {
  static std::map<std::string, std::shared_ptr<const ModelWeights>> loaded;
  if (!loaded.contains(model_name)) {
    auto weights = LoadModelWeights(testing::ModelPath(model_name), nullptr);
    EXPECT_TRUE(weights.ok()) << weights.status();
    loaded[model_name] = *std::move(weights);
  }
  return loaded[model_name];
}

// One worker of one shard.
class RealEngine {
 public:
  struct Options {
    int64_t step_token_budget = 512;
    int n_threads = 1;
    Numerics numerics = Numerics::kNative;
  };

  RealEngine(const std::string& model_name, const Options& options) {
    ModelOptions model_options;
    model_options.numerics = options.numerics;
    model_options.n_threads = options.n_threads;
    auto model = Model::Create(Weights(model_name), model_options, transport_);
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto executor = Executor::Create(MakeSequenceModel(*model_), {.n_slots = 20, .n_blocks = 160});
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    runner_ = std::make_unique<LocalStepRunner>(*executor_);
    EngineConfig config{.n_context_max = 8192,
                        .step_token_budget = options.step_token_budget,
                        .n_sequences_max = 20,
                        .checkpoint_memory_bytes = 512 << 20,
                        .eos_token_id = model_->config().eos_token_id,
                        .vocab_size = static_cast<uint32_t>(model_->config().vocab_size),
                        .self_check = true};
    harness_ = std::make_unique<Harness>(config, *runner_, kHasher,
                                         [this](uint16_t) -> KvCopies& { return executor_->copies(); });
  }

  Harness& harness() { return *harness_; }
  void Run() {
    const absl::Status status = harness_->Run();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(harness_->load.n_blocks_free, harness_->load.n_blocks_total);
  }

 private:
  LocalExpertTransport transport_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<LocalStepRunner> runner_;
  std::unique_ptr<Harness> harness_;
};

std::vector<uint32_t> RandomTokens(const std::string& model_name, size_t n, uint64_t seed) {
  const auto vocab_size = static_cast<uint64_t>(Weights(model_name)->config.vocab_size);
  std::mt19937_64 random(seed);
  std::vector<uint32_t> tokens(n);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % vocab_size);
  return tokens;
}

SequenceRequest WithLogits(std::vector<uint32_t> prompt) {
  SequenceRequest request = Request(std::move(prompt), 3);
  request.sampling = {.temperature = 0.8, .seed = 4};
  request.return_logits = true;
  return request;
}

void ExpectSameBits(const RecordingSink& a, const RecordingSink& b, const std::string& what) {
  ASSERT_TRUE(a.finished.has_value()) << what;
  ASSERT_TRUE(b.finished.has_value()) << what << ": " << (b.failed.has_value() ? b.failed->ToString() : "");
  ASSERT_EQ(a.tokens(), b.tokens()) << what;
  for (size_t i = 0; i < a.sampled.size(); ++i) {
    const auto& x = a.sampled[i].logits;
    const auto& y = b.sampled[i].logits;
    ASSERT_FALSE(x.empty());
    ASSERT_EQ(x.size(), y.size());
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size() * sizeof(float)), 0) << what << ", token " << i;
  }
}

struct GreedyCase {
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> completion;
};

std::vector<GreedyCase> GreedyCases() {
  std::ifstream in(testing::ModelPath("demo") / "greedy.json");
  const nlohmann::json json = nlohmann::json::parse(in);
  std::vector<GreedyCase> cases;
  for (const auto& entry : json) cases.push_back({entry["prompt_ids"], entry["completion_ids"]});
  return cases;
}

TEST(EngineOnTheDemoModel, GivesTheReferencesCompletionsOneAtATimeAndAllAtOnce) {
  const auto cases = GreedyCases();
  ASSERT_GT(cases.size(), 5U);
  for (const bool at_once : {true, false}) {
    RealEngine engine("demo", {});
    std::vector<std::shared_ptr<RecordingSink>> sinks(cases.size());
    const auto submit = [&](size_t i) { sinks[i] = engine.harness().Submit(Request(cases[i].prompt, 400)); };
    if (at_once) {
      engine.harness().Then([&] {
        for (size_t i = 0; i < cases.size(); ++i) submit(i);
      });
    } else {
      for (size_t i = 0; i < cases.size(); ++i) engine.harness().Then([&, i] { submit(i); });
    }
    engine.Run();
    for (size_t i = 0; i < cases.size(); ++i) {
      ASSERT_TRUE(sinks[i]->finished.has_value());
      EXPECT_EQ(sinks[i]->tokens(), cases[i].completion) << "case " << i << (at_once ? ", all at once" : ", alone");
      EXPECT_EQ(sinks[i]->finished->reason, FinishReason::kStop);
    }
  }
}

// Every way a request can go, on one checkpoint.
class SameBits : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr size_t kLengths[] = {1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 1000};

  std::string model() const { return GetParam(); }
  std::vector<uint32_t> PromptOf(size_t n) const { return RandomTokens(model(), n, 1000 + n); }

  // Alone, cold, in one chunk as far as checkpoints allow. Computed once per prompt and test program.
  std::shared_ptr<RecordingSink> Reference(const std::vector<uint32_t>& prompt) {
    static std::map<std::pair<std::string, std::vector<uint32_t>>, std::shared_ptr<RecordingSink>> known;
    std::shared_ptr<RecordingSink>& sink = known[{model(), prompt}];
    if (sink != nullptr) return sink;
    RealEngine engine(model(), {.step_token_budget = 4096});
    engine.harness().Then([&] { sink = engine.harness().Submit(WithLogits(prompt)); });
    engine.Run();
    return sink;
  }
};

TEST_P(SameBits, WithOtherChunkSizesAndThreads) {
  for (const int64_t budget : {3, 7, 64, 129}) {
    RealEngine engine(model(), {.step_token_budget = budget, .n_threads = budget == 64 ? 2 : 1});
    std::map<size_t, std::shared_ptr<RecordingSink>> sinks;
    for (const size_t n : kLengths) {
      if (budget < 64 && n > 300) continue;  // a thousand tokens in crumbs take their time
      engine.harness().Then([&, n] {
        SequenceRequest request = WithLogits(PromptOf(n));
        request.no_cache_read = true;
        sinks[n] = engine.harness().Submit(std::move(request));
      });
    }
    engine.Run();
    for (const auto& [n, sink] : sinks) {
      ExpectSameBits(*Reference(PromptOf(n)), *sink,
                     "length " + std::to_string(n) + ", budget " + std::to_string(budget));
    }
  }
}

// What was sampled, read again as a prompt: the same log probabilities, however it is cut and whoever is beside it.
TEST_P(SameBits, WhenWhatWasSampledIsScored) {
  const auto prompt = PromptOf(257);
  std::shared_ptr<RecordingSink> sampled;
  RealEngine first(model(), {});
  first.harness().Then([&] {
    SequenceRequest request = WithLogits(prompt);
    request.max_tokens = 20;
    request.sampling.logprobs = true;
    request.sampling.n_top_logprobs = 3;
    sampled = first.harness().Submit(std::move(request));
  });
  first.Run();
  std::vector<ScoredToken> expected;
  for (const SampledToken& token : sampled->sampled) expected.push_back({token.token, token.logprob, token.top});
  std::vector<ScoredToken> whole;
  for (const int64_t budget : {512, 7, 64}) {
    RealEngine engine(model(), {.step_token_budget = budget, .n_threads = budget == 64 ? 2 : 1});
    std::shared_ptr<RecordingSink> scored;
    std::shared_ptr<RecordingSink> resumed;
    engine.harness().Then([&] {
      SequenceRequest request = WithLogits(Join(prompt, sampled->tokens()));
      request.max_tokens = budget == 64 ? 0 : 1;
      request.prompt_logprobs = true;
      request.sampling.n_top_logprobs = 3;
      scored = engine.harness().Submit(request);
      request.n_prompt_scored = 257;
      resumed = engine.harness().Submit(std::move(request));
      engine.harness().Submit(WithLogits(RandomTokens(model(), 90, 1)));
    });
    engine.Run();
    const size_t n = prompt.size() + expected.size();
    ASSERT_EQ(scored->scored.size(), n - 1) << budget;
    if (whole.empty()) whole = scored->scored;
    EXPECT_EQ(scored->scored, whole) << budget;
    EXPECT_EQ(resumed->scored, expected) << budget;
    EXPECT_EQ(std::vector<ScoredToken>(whole.begin() + 256, whole.end()), expected) << budget;
  }
}

TEST_P(SameBits, BesideFifteenOthers) {
  RealEngine engine(model(), {.step_token_budget = 300});
  std::map<size_t, std::shared_ptr<RecordingSink>> sinks;
  engine.harness().Then([&] {
    for (const size_t n : kLengths) sinks[n] = engine.harness().Submit(WithLogits(PromptOf(n)));
    for (size_t i = 0; i < 5; ++i) engine.harness().Submit(WithLogits(RandomTokens(model(), 20 + 90 * i, i)));
  });
  engine.Run();
  for (const auto& [n, sink] : sinks) {
    ExpectSameBits(*Reference(PromptOf(n)), *sink, "length " + std::to_string(n));
  }
}

TEST_P(SameBits, FromTheLocalCacheAndFromAnotherEnginesExport) {
  for (const size_t n : kLengths) {
    SCOPED_TRACE("length " + std::to_string(n));
    // The first turn; its prompt, output and the next turn's words make the second.
    RealEngine engine(model(), {});
    std::shared_ptr<RecordingSink> first;
    std::shared_ptr<RecordingSink> hit;
    std::vector<uint32_t> next;
    std::vector<KvObject> parked;
    engine.harness().Then([&] { first = engine.harness().Submit(WithLogits(PromptOf(n))); });
    engine.harness().Then([&] {
      next = Join(Join(PromptOf(n), first->tokens()), RandomTokens(model(), 5, 9));
      engine.harness().Export(Join(PromptOf(n), first->tokens()), [&](auto objects) {
        ASSERT_TRUE(objects.ok()) << objects.status();
        parked = *std::move(objects);
      });
    });
    engine.harness().Then([&] { hit = engine.harness().Submit(WithLogits(next)); });
    engine.Run();
    const auto cold = Reference(next);
    ExpectSameBits(*cold, *hit, "local hit");
    EXPECT_EQ(hit->started->n_cached_local, n + 2);

    RealEngine other(model(), {});
    std::shared_ptr<RecordingSink> restored;
    other.harness().Then([&] {
      SequenceRequest request = WithLogits(next);
      request.feed = std::make_shared<FakeFeed>(parked);
      restored = other.harness().Submit(std::move(request));
    });
    other.Run();
    ExpectSameBits(*cold, *restored, "restored");
    EXPECT_EQ(restored->started->n_cached_store, n + 2);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, SameBits, ::testing::Values("micro-flash", "micro-pro", "micro-odd", "demo"),
                         [](const auto& test) { return testing::TestNameOf(test.param); });

}  // namespace
}  // namespace longshelf::engine
