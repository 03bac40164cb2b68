// Engine, bridge and a real store with keys of 8 bits: nearly everything is found under the key of something else, and
// not one wrong token may come of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mailbox.h"
#include "common/metrics.h"
#include "engine/engine.h"
#include "engine/executor.h"
#include "engine/token_stamp.h"
#include "fake_model.h"
#include "simulated_store.h"
#include "worker/bridge/kv_bridge.h"
#include "worker/prefix_hasher.h"

namespace longshelf::worker {
namespace {

using engine::FakeModel;

constexpr size_t kPrompts = 10'000;
constexpr size_t kPromptsPerWorker = 500;
constexpr size_t kInFlight = 4;
constexpr uint32_t kEos = 1;
constexpr uint32_t kOutputTokens = 3;

// The real keys, cut to one byte.
class ShortHasher final : public engine::PrefixHasher {
 public:
  engine::PrefixKey Root(std::string_view namespace_salt) const override { return Cut(hasher_.Root(namespace_salt)); }
  engine::PrefixKey Next(const engine::PrefixKey& parent, std::span<const uint32_t> tokens) const override {
    return Cut(hasher_.Next(parent, tokens));
  }

 private:
  static engine::PrefixKey Cut(const engine::PrefixKey& key) { return {key[0]}; }

  const KvPrefixHasher hasher_{{}};
};

struct Prompt {
  std::vector<uint32_t> tokens;
  std::string salt;
};

// Beginnings of a few documents, some of which begin alike, with something of their own behind. The second block of
// most has the same tokens, so that only what is before it tells them apart.
std::vector<Prompt> MakePrompts(size_t n) {
  std::mt19937_64 random(11);
  const auto below = [&](uint64_t end) { return random() % end; };
  const auto append = [&](std::vector<uint32_t>& tokens, uint64_t n_tokens) {
    for (; n_tokens > 0; --n_tokens) tokens.push_back(static_cast<uint32_t>(below(FakeModel::kPoison)));
  };
  std::vector<std::vector<uint32_t>> documents;
  for (size_t i = 0; i < 60; ++i) {
    documents.emplace_back();
    std::vector<uint32_t>& document = documents.back();
    if (i % 3 == 1) document.assign(documents[i - 1].begin(), documents[i - 1].begin() + 300);
    append(document, 800 - document.size());
    if (i % 3 != 1) std::copy_n(documents[0].begin() + 256, 256, document.begin() + 256);
  }
  std::vector<Prompt> prompts(n);
  for (Prompt& prompt : prompts) {
    const auto& document = documents[below(documents.size())];
    const auto n_shared = static_cast<std::ptrdiff_t>(below(4) == 0 ? below(256) : 257 + below(500));
    prompt.tokens.assign(document.begin(), document.begin() + n_shared);
    append(prompt.tokens, 1 + below(below(2) == 0 ? 20 : 300));
    prompt.salt = std::string(32, below(4) == 0 ? 'b' : 'a');
  }
  return prompts;
}

struct Totals {
  size_t n_answered = 0;
  size_t n_wrong = 0;
  uint64_t n_cached_local = 0;
  uint64_t n_cached_store = 0;
  uint64_t n_mismatches = 0;
};

// A worker that answers its share of the prompts. Everything runs on the engine's thread, turned by its reports.
class Worker final : public engine::EngineObserver {
 public:
  Worker(kvstore::SimulatedStore& store, ManualClock& clock, int64_t n_replay)
      : store_(store),
        clock_(clock),
        executor_(std::move(*engine::Executor::Create(std::make_unique<FakeModel>(0, 0, n_replay),
                                                      {.n_slots = kInFlight, .n_blocks = 150}))),
        runner_(*executor_),
        home_(MakeHomeStore(store, executor_->copies())),
        engine_(Config(), runner_, *hasher_, clock, inbox_, *this),
        bridge_(Options(n_replay), clock, store, {home_.get()}, engine_.copies(), inbox_, worker_metrics_) {}

  void Answer(std::span<const Prompt> prompts, Totals& totals) {
    prompts_ = prompts;
    totals_ = &totals;
    ASSERT_TRUE(engine_.Run().ok());
    totals.n_mismatches += load_.n_token_mismatches;
    Settle();
  }

  void OnLoad(const engine::Load& load) override {
    load_ = load;
    clock_.Advance(absl::Milliseconds(1));
    Settle();
    while (n_started_ - n_ended_ < kInFlight && n_started_ < prompts_.size()) {
      Start(prompts_[n_started_++]);
      Settle();
    }
    if (n_ended_ < prompts_.size() || inbox_.closed()) return;
    bridge_.Stop();
    Settle();
    inbox_.Close();
  }
  void OnCheckpointsChanged(std::vector<engine::CachedCheckpoint>, std::vector<engine::PrefixKey>) override {}
  void OnCacheObjects(const engine::CacheChain& chain, std::vector<engine::ParkedObject> objects) override {
    bridge_.Offload(chain, std::move(objects));
  }
  void OnCheckpointsDropped(const engine::CacheChain& chain, std::vector<engine::PrefixKey> keys) override {
    bridge_.DropCheckpoints(chain, keys);
  }

 private:
  class Sink final : public engine::EventSink {
   public:
    Sink(Worker& worker, const Prompt& prompt) : worker_(worker), prompt_(prompt) {}
    void OnEvent(engine::SequenceEvent event) override {
      Totals& totals = *worker_.totals_;
      if (const auto* started = std::get_if<engine::Started>(&event)) {
        totals.n_cached_local += started->n_cached_local;
        totals.n_cached_store += started->n_cached_store;
      } else if (auto* output = std::get_if<engine::OutputToken>(&event)) {
        tokens_.push_back(output->token.token);
      } else if (std::holds_alternative<engine::Finished>(event)) {
        ++totals.n_answered;
        if (tokens_ != FakeModel::Continue(prompt_.tokens, kOutputTokens, kEos)) ++totals.n_wrong;
        ++worker_.n_ended_;
      } else if (const auto* failed = std::get_if<engine::Failed>(&event)) {
        ADD_FAILURE() << failed->status;
        ++worker_.n_ended_;
      }
    }

   private:
    Worker& worker_;
    const Prompt& prompt_;
    std::vector<uint32_t> tokens_;
  };

  static engine::EngineConfig Config() {
    return {.n_context_max = 2048,
            .step_token_budget = 512,
            .n_sequences_max = kInFlight,
            .n_waiting_max = 64,
            .admission_headroom_tokens = 0,
            .checkpoint_interval_tokens = 256,
            .checkpoint_memory_bytes = 200'000,
            .eos_token_id = kEos,
            .vocab_size = FakeModel::kVocab,
            .export_cache_objects = true,
            .self_check = true};
  }
  KvBridgeOptions Options(int64_t n_replay) const {
    KvBridgeOptions options;
    options.hasher = hasher_;
    const auto state_bytes = [](int64_t n_tokens) {
      return FakeModel().StateExportBytes(n_tokens) + engine::kStampBytes;
    };
    options.block_bytes = FakeModel().block_bytes() + engine::kStampBytes;
    options.state_bytes = state_bytes;
    options.state_bytes_max = state_bytes(3);
    options.replay_tokens = n_replay;
    options.memory_bytes = uint64_t{1} << 20;
    return options;
  }

  void Settle() {
    do {
      bridge_.RunReady();
    } while (store_.Run());
  }

  void Start(const Prompt& prompt) {
    const auto keys = engine::FullBlockKeys(*hasher_, prompt.salt, prompt.tokens, {});
    RestoreRequest wanted;
    wanted.tokens = prompt.tokens;
    wanted.namespace_salt = prompt.salt;
    wanted.prefix_keys = keys;
    bridge_.Restore(std::move(wanted), [this, &prompt, keys](RestoreOutcome outcome) {
      engine::SequenceRequest request;
      request.id = ++n_requests_;
      request.prompt = prompt.tokens;
      request.max_tokens = kOutputTokens;
      request.sampling.temperature = 0;
      request.namespace_id = "tenant";
      request.namespace_salt = prompt.salt;
      request.prefix_keys = keys;
      request.feed = std::move(outcome.feed);
      request.store_miss_reason = std::move(outcome.miss_reason);
      request.n_shared_elsewhere = outcome.n_shared;
      request.sink = std::make_shared<Sink>(*this, prompt);
      ASSERT_TRUE(inbox_.Post(engine::Submit{std::move(request)}));
    });
  }

  kvstore::SimulatedStore& store_;
  ManualClock& clock_;
  const std::shared_ptr<const engine::PrefixHasher> hasher_ = std::make_shared<ShortHasher>();
  Metrics metrics_{"collisions"};
  WorkerMetrics worker_metrics_{metrics_};
  Mailbox<engine::EngineMessage> inbox_{1000};
  const std::unique_ptr<engine::Executor> executor_;
  engine::LocalStepRunner runner_;
  const std::unique_ptr<HomeStore> home_;
  engine::Engine engine_;
  KvBridge bridge_;
  engine::Load load_;
  std::span<const Prompt> prompts_;
  Totals* totals_ = nullptr;
  size_t n_started_ = 0;
  size_t n_ended_ = 0;
  uint64_t n_requests_ = 0;
};

TEST(Collisions, TenThousandPromptsWithKeysOfEightBitsGiveNoWrongToken) {
  ManualClock clock;
  kvstore::SimulatedStore store(clock);
  const std::vector<Prompt> prompts = MakePrompts(kPrompts);
  Totals totals;
  for (size_t first = 0; first < kPrompts; first += kPromptsPerWorker) {
    // Every other one can go on from blocks alone.
    Worker worker(store, clock, first / kPromptsPerWorker % 2 == 0 ? 0 : 32);
    worker.Answer(std::span(prompts).subspan(first, kPromptsPerWorker), totals);
  }
  EXPECT_EQ(totals.n_answered, kPrompts);
  EXPECT_EQ(totals.n_wrong, 0U);
  EXPECT_GT(totals.n_mismatches, 5'000U) << "keys collide all the time";
  EXPECT_GT(totals.n_cached_local, 100'000U) << "and what is right is used all the same";
  EXPECT_GT(totals.n_cached_store, 10'000U);
  RecordProperty("mismatches", std::to_string(totals.n_mismatches));
  RecordProperty("cached_local", std::to_string(totals.n_cached_local));
  RecordProperty("cached_store", std::to_string(totals.n_cached_store));
}

}  // namespace
}  // namespace longshelf::worker
