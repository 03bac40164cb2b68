#include "engine_harness.h"

#include <gtest/gtest.h>

#include <type_traits>

#include "common/check.h"
#include "common/status.h"
#include "fake_feed.h"
#include "fake_model.h"

namespace longshelf::engine {

void RecordingSink::OnEvent(SequenceEvent event) {
  n_after_end += ended() ? 1 : 0;
  if (auto* s = std::get_if<Started>(&event)) {
    EXPECT_FALSE(started.has_value());
    started = *s;
  } else if (auto* p = std::get_if<PrefillProgress>(&event)) {
    progress.push_back(*p);
  } else if (auto* scores = std::get_if<PromptLogprobs>(&event)) {
    if (scored.empty()) first_scored = scores->first;
    EXPECT_EQ(scores->first, first_scored + scored.size());
    EXPECT_LE(scores->tokens.size(), PromptLogprobs::kTokensMax);
    EXPECT_TRUE(sampled.empty());
    scored.insert(scored.end(), scores->tokens.begin(), scores->tokens.end());
  } else if (auto* t = std::get_if<OutputToken>(&event)) {
    if (sampled.empty()) first_index = t->index;
    EXPECT_EQ(t->index, first_index + sampled.size());
    sampled.push_back(std::move(t->token));
    if (on_token) on_token(*this);
  } else if (auto* f = std::get_if<Finished>(&event)) {
    finished = *f;
  } else {
    failed = std::get<Failed>(event).status;
  }
}

std::vector<uint32_t> RecordingSink::tokens() const {
  std::vector<uint32_t> out;
  for (const SampledToken& s : sampled) out.push_back(s.token);
  return out;
}

absl::StatusOr<StepResult> FakeGroup::Run(const StepPlan& plan) {
  StepPlan only_drops;
  only_drops.seq = plan.seq;
  only_drops.drop_copies = plan.drop_copies;
  if (on_plan && plan != only_drops) on_plan(plan);
  if (fail) RETURN_IF_ERROR(fail(plan));
  shut_down |= plan.opcode == StepPlan::Opcode::kShutdown;
  if (keep_plans && plan.opcode == StepPlan::Opcode::kStep && plan != only_drops) plans.push_back(plan);
  MoveCopies(plan, [this](uint16_t shard) -> KvCopies& { return copies(shard); });
  std::vector<StepResult> results;
  for (size_t shard = 0; shard < shards_.size(); ++shard) {
    ASSIGN_OR_RETURN(const StepPlan received, StepPlan::Parse(plan.Serialize()));
    ASSIGN_OR_RETURN(const StepResult result, shards_[shard]->Execute(received, static_cast<int>(shard)));
    ASSIGN_OR_RETURN(StepResult returned, StepResult::Parse(result.Serialize()));
    results.push_back(std::move(returned));
  }
  return MergeResults(plan, std::move(results));
}

std::unique_ptr<FakeGroup> MakeFakeGroup(int n_shards, uint32_t n_slots, uint32_t n_blocks, int64_t n_draft_max,
                                         int64_t n_draft, int64_t n_replay) {
  std::vector<std::unique_ptr<Executor>> shards;
  for (int shard = 0; shard < n_shards; ++shard) {
    auto executor = Executor::Create(std::make_unique<FakeModel>(n_draft_max, n_draft, n_replay),
                                     {.n_slots = n_slots, .n_blocks = n_blocks});
    LONGSHELF_CHECK(executor.ok());
    shards.push_back(*std::move(executor));
  }
  return std::make_unique<FakeGroup>(std::move(shards));
}

Harness::Harness(const EngineConfig& config, StepRunner& runner, const PrefixHasher& hasher,
                 TestCopies::OfShard of_shard)
    : engine_(config, runner, hasher, clock_, inbox_, *this), copies_(engine_.copies(), std::move(of_shard)) {}

absl::Status Harness::Run() { return engine_.Run(); }

std::shared_ptr<RecordingSink> Harness::Submit(SequenceRequest request) {
  auto sink = std::make_shared<RecordingSink>();
  if (request.id == 0) request.id = 1000000 + next_id_++;
  request.sink = sink;
  if (auto* feed = dynamic_cast<FakeFeed*>(request.feed.get())) feed->Bind(copies_);
  EXPECT_TRUE(inbox_.Post(engine::Submit{std::move(request)}));
  return sink;
}

void Harness::Cancel(uint64_t id) { EXPECT_TRUE(inbox_.Post(engine::Cancel{id})); }

void Harness::Probe(std::vector<uint32_t> tokens, std::function<void(int64_t)> reply, std::string salt) {
  tokens.pop_back();
  auto answer = [reply = std::move(reply)](const absl::StatusOr<FoundPrefix>& found) {
    reply(found.ok() ? found->at.n_tokens : 0);
  };
  EXPECT_TRUE(inbox_.Post(FindPrefix{std::move(tokens), std::move(salt), std::move(answer)}));
}

namespace {

// Takes three blocks at a time, and hands everything over at the end.
class CollectingSink final : public BlockSink {
 public:
  CollectingSink(FoundPrefix found, TestCopies copies, std::function<void(absl::StatusOr<std::vector<KvObject>>)> reply)
      : found_(std::move(found)), copies_(std::move(copies)), reply_(std::move(reply)) {}
  int64_t n_room() override { return 3; }
  void OnBlock(ParkedObject block) override { objects_.push_back(copies_.Read(block)); }
  void OnEnd(const absl::Status& status) override {
    if (!status.ok()) return reply_(status);
    const CachedCheckpoint& at = found_.at;
    if (found_.tail != nullptr) {
      objects_.push_back({ParkedObject::Kind::kTail, at.key, at.parent, at.n_tokens, copies_.Read(found_.tail)});
    }
    objects_.push_back({ParkedObject::Kind::kCheckpoint, at.key, at.parent, at.n_tokens, copies_.Read(found_.state)});
    reply_(std::move(objects_));
  }

 private:
  const FoundPrefix found_;
  const TestCopies copies_;
  const std::function<void(absl::StatusOr<std::vector<KvObject>>)> reply_;
  std::vector<KvObject> objects_;
};

}  // namespace

void Harness::Export(std::vector<uint32_t> tokens, std::function<void(absl::StatusOr<std::vector<KvObject>>)> reply,
                     std::string salt) {
  ++n_exports_;
  auto counted = [this, reply = std::move(reply)](absl::StatusOr<std::vector<KvObject>> answer) {
    reply(std::move(answer));
    EndExport();
  };
  auto on_found = [this, counted](absl::StatusOr<FoundPrefix> found) {
    if (!found.ok()) return counted(found.status());
    ExportBlocks copy{.root = found->root, .keys = found->blocks, .first = 0, .sink = nullptr};
    copy.sink = std::make_shared<CollectingSink>(*std::move(found), copies_, counted);
    EXPECT_TRUE(inbox_.Post(std::move(copy)));
  };
  EXPECT_TRUE(inbox_.Post(FindPrefix{std::move(tokens), std::move(salt), std::move(on_found)}));
}

void Harness::EndExport() {
  --n_exports_;
  if (load.n_running == 0 && load.n_waiting == 0) Advance();
}

void Harness::Drain() { EXPECT_TRUE(inbox_.Post(DrainRequest{})); }

void Harness::OnLoad(const Load& now) {
  load = now;
  if (load.n_running == 0 && load.n_waiting == 0) Advance();
}

void Harness::Advance() {
  if (closed_ || n_exports_ > 0 || inbox_.size() > 0) return;
  if (script_.empty()) {
    closed_ = true;
    inbox_.Close();
    return;
  }
  const auto step = std::move(script_.front());
  script_.pop_front();
  step();
  Advance();  // a step that posted nothing is over already
}

void Harness::OnCheckpointsChanged(std::vector<CachedCheckpoint> gained, std::vector<PrefixKey> lost) {
  for (const PrefixKey& key : lost) EXPECT_EQ(known.erase(key), 1U) << "lost one that was never gained";
  for (const CachedCheckpoint& checkpoint : gained) {
    EXPECT_TRUE(known.emplace(checkpoint.key, checkpoint).second) << "gained twice";
  }
}

void Harness::OnCheckpointsDropped(const CacheChain&, std::vector<PrefixKey> keys) {
  dropped_checkpoints.insert(dropped_checkpoints.end(), keys.begin(), keys.end());
}

void Harness::OnCacheObjects(const CacheChain& chain, std::vector<ParkedObject> made) {
  for (const ParkedObject& object : made) {
    if (object.kind == ParkedObject::Kind::kCheckpoint) continued[object.key] = chain.continues;
    objects.push_back(copies_.Read(object));
    object_namespaces.emplace_back(chain.namespace_id);
  }
}

EngineConfig SmallConfig() {
  return {.n_context_max = 4096,
          .step_token_budget = 512,
          .n_sequences_max = 16,
          .n_waiting_max = 64,
          .checkpoint_interval_tokens = 256,
          .checkpoint_memory_bytes = 64 << 20,
          .eos_token_id = 1,
          .vocab_size = FakeModel::kVocab,
          .export_cache_objects = false,
          .self_check = true};
}

EngineConfig EndlessConfig() {
  EngineConfig config = SmallConfig();
  config.eos_token_id = 5000;
  return config;
}

std::vector<uint32_t> ContinueWithoutEnd(const std::vector<uint32_t>& prompt, size_t n) {
  return FakeModel::Continue(prompt, n, EndlessConfig().eos_token_id);
}

}  // namespace longshelf::engine
