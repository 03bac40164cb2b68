#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "draft_policy.h"
#include "engine/engine_config.h"
#include "engine/events.h"
#include "engine/observer.h"
#include "engine/step_plan.h"
#include "prefix_cache.h"
#include "scheduler.h"
#include "step_builder.h"

namespace longshelf::engine {

struct EndedSequence {
  uint64_t id = 0;
  FinishReason reason = FinishReason::kStop;
};

// As the observer sees it. Valid while the sequence is not touched.
CacheChain ChainOf(const Sequence& sequence);

// Applies a step's results: tokens leave first, then new blocks and checkpoints go into the cache and to the observer.
class StepCommitter {
 public:
  StepCommitter(const EngineConfig& config, Scheduler& scheduler, PrefixCache& cache, DraftPolicy& drafts,
                EngineObserver& observer)
      : config_(config), scheduler_(scheduler), cache_(cache), drafts_(drafts), observer_(observer) {}

  // Sequences that failed are removed. Those that ended are returned; they still run.
  std::vector<EndedSequence> Commit(StepWork& work, StepResult& result);

 private:
  void DropFailed(StepWork& work, StepResult& result);
  void EmitTokens(StepWork& work, StepResult& result, std::vector<EndedSequence>& ended);
  void CommitCache(StepWork& work);
  void CommitCheckpoints(StepWork& work);
  void EmitScores(Sequence& sequence, std::vector<ScoredToken> scored);
  // The sampled tokens of a row, up to one that ends the sequence.
  std::optional<FinishReason> Append(Sequence& sequence, std::vector<SampledToken> sampled);
  bool IsStop(const Sequence& sequence, uint32_t token) const;

  const EngineConfig config_;
  Scheduler& scheduler_;
  PrefixCache& cache_;
  DraftPolicy& drafts_;
  EngineObserver& observer_;
};

}  // namespace longshelf::engine
