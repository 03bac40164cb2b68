#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "engine/engine.h"
#include "engine/executor.h"
#include "kv_objects.h"

namespace longshelf::engine {

// Keeps what a sequence was told, and complains about anything after its end.
class RecordingSink final : public EventSink {
 public:
  void OnEvent(SequenceEvent event) override;

  std::optional<Started> started;
  std::vector<PrefillProgress> progress;
  std::vector<ScoredToken> scored;
  uint32_t first_scored = 0;
  std::vector<SampledToken> sampled;
  std::optional<Finished> finished;
  std::optional<absl::Status> failed;
  std::function<void(const RecordingSink&)> on_token;  // after each one
  uint32_t first_index = 0;
  int n_after_end = 0;

  bool ended() const { return finished.has_value() || failed.has_value(); }
  std::vector<uint32_t> tokens() const;
};

// R shards in this process: every plan and result goes through its serialised form, as over a wire.
class FakeGroup final : public StepRunner {
 public:
  FakeGroup(std::vector<std::unique_ptr<Executor>> shards) : shards_(std::move(shards)) {}
  GroupShape shape() const override { return shards_[0]->shape(static_cast<int>(shards_.size())); }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override;
  KvCopies& copies(uint16_t shard) { return shards_[shard]->copies(); }

  // Before it runs. Neither of those that only drop copies.
  std::function<void(const StepPlan&)> on_plan;
  std::function<absl::Status(const StepPlan&)> fail;
  std::vector<StepPlan> plans;  // kStep only
  bool keep_plans = true;
  bool shut_down = false;

 private:
  std::vector<std::unique_ptr<Executor>> shards_;
};

// n shards of FakeModel, which can take n_draft_max tokens back and guesses n_draft.
std::unique_ptr<FakeGroup> MakeFakeGroup(int n_shards, uint32_t n_slots, uint32_t n_blocks, int64_t n_draft_max = 0,
                                         int64_t n_draft = 0, int64_t n_replay = 0);

// An engine driven from one thread: each script step runs when nothing is left to do, and posts messages. After the
// last one the inbox is closed and Run() returns.
class Harness final : public EngineObserver {
 public:
  Harness(const EngineConfig& config, StepRunner& runner, const PrefixHasher& hasher, TestCopies::OfShard of_shard);
  Harness(const EngineConfig& config, FakeGroup& group, const PrefixHasher& hasher)
      : Harness(config, group, hasher, [&group](uint16_t shard) -> KvCopies& { return group.copies(shard); }) {}

  void Then(std::function<void()> step) { script_.push_back(std::move(step)); }
  absl::Status Run();

  std::shared_ptr<RecordingSink> Submit(SequenceRequest request);
  void Cancel(uint64_t id);
  // How many leading tokens could be resumed with at least one left to compute.
  void Probe(std::vector<uint32_t> tokens, std::function<void(int64_t)> reply, std::string salt = "");
  // Everything that resumes at the last position of `tokens` that can be.
  void Export(std::vector<uint32_t> tokens, std::function<void(absl::StatusOr<std::vector<KvObject>>)> reply,
              std::string salt = "");
  void Drain();
  Mailbox<EngineMessage>& inbox() { return inbox_; }
  ManualClock& clock() { return clock_; }
  const TestCopies& copies() const { return copies_; }

  void OnLoad(const Load& load) override;
  void OnCheckpointsChanged(std::vector<CachedCheckpoint> gained, std::vector<PrefixKey> lost) override;
  void OnCacheObjects(const CacheChain& chain, std::vector<ParkedObject> objects) override;
  void OnCheckpointsDropped(const CacheChain& chain, std::vector<PrefixKey> keys) override;

  Load load;
  std::map<PrefixKey, CachedCheckpoint> known;  // as an outsider sees the cache
  std::vector<KvObject> objects;
  std::vector<std::string> object_namespaces;
  std::map<PrefixKey, std::optional<PrefixKey>> continued;  // by each exported checkpoint
  std::vector<PrefixKey> dropped_checkpoints;

 private:
  void Advance();
  void EndExport();

  ManualClock clock_;
  Mailbox<EngineMessage> inbox_{100000};
  std::deque<std::function<void()>> script_;
  int n_exports_ = 0;
  bool closed_ = false;
  uint64_t next_id_ = 1;
  Engine engine_;
  const TestCopies copies_;
};

EngineConfig SmallConfig();
// The same with an end of sequence that FakeModel never generates, and what it then generates.
EngineConfig EndlessConfig();
std::vector<uint32_t> ContinueWithoutEnd(const std::vector<uint32_t>& prompt, size_t n);

}  // namespace longshelf::engine
