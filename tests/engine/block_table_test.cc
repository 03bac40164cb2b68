// Random sequences of plans: whatever is admitted, shared, preempted, removed and ended, a shard's block tables are
// those of the scheduler whenever a row runs, though plans tell changes only.
#include "block_table.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "common/check.h"
#include "engine/executor.h"
#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_model.h"
#include "prefix_cache.h"
#include "scheduler.h"
#include "step_builder.h"
#include "step_committer.h"

namespace longshelf::engine {
namespace {

const FakeHasher kHasher;

struct NullSink final : EventSink {
  void OnEvent(SequenceEvent) override {}
};
struct NullObserver final : EngineObserver {
  void OnLoad(const Load&) override {}
  void OnCheckpointsChanged(std::vector<CachedCheckpoint>, std::vector<PrefixKey>) override {}
  void OnCacheObjects(const CacheChain&, std::vector<ParkedObject>) override {}
  void OnCheckpointsDropped(const CacheChain&, std::vector<PrefixKey>) override {}
};

// The leader's parts over shards that get plans in their serialised form.
class Plans {
 public:
  Plans(uint64_t seed, int n_shards, uint32_t n_slots, uint32_t n_blocks)
      : random_(seed), config_(Config()), shards_(MakeShards(n_shards, n_slots, n_blocks)) {}

  uint64_t Below(uint64_t n) { return random_() % n; }
  void Submit(std::vector<uint32_t> prompt, uint32_t max_tokens) {
    auto sequence = std::make_unique<Sequence>(PrefixChain(kHasher, ""));
    sequence->id = ++n_submitted_;
    sequence->sampling.temperature = 0.0;
    sequence->sink = std::make_shared<NullSink>();
    sequence->n_prompt = sequence->n_given = static_cast<int64_t>(prompt.size());
    sequence->n_tokens_max = sequence->n_prompt + max_tokens;
    sequence->tokens = std::move(prompt);
    sequence->chain.Extend(sequence->tokens, sequence->n_given);
    scheduler_.Enqueue(std::move(sequence));
  }
  void RemoveOne() {
    const auto& running = scheduler_.running();
    if (!running.empty()) scheduler_.Remove(running[Below(running.size())]->id);
  }
  bool has_room() const { return !scheduler_.is_queue_full(); }
  bool idle() const {
    return scheduler_.running().empty() && scheduler_.waiting().empty() && scheduler_.leaving().empty();
  }

  // One step; the plan it ran.
  StepPlan Step() {
    StepWork work;
    scheduler_.MakeRoom();
    scheduler_.Admit(work.plan);
    builder_.Fill(work, pacer_, drafts_);
    work.plan.drop_copies = copies_->TakeDropped();
    MoveCopies(work.plan, [this](uint16_t shard) -> KvCopies& { return shards_[shard]->copies(); });
    std::vector<StepResult> results;
    for (size_t shard = 0; shard < shards_.size(); ++shard) {
      const auto received = StepPlan::Parse(work.plan.Serialize());
      LONGSHELF_CHECK(received.ok());
      auto result = shards_[shard]->Execute(*received, static_cast<int>(shard));
      EXPECT_TRUE(result.ok()) << result.status();
      results.push_back(result.ok() ? *std::move(result) : StepResult());
    }
    for (const StepWork::Row& row : work.rows) {
      EXPECT_EQ(shards_[row.sequence->slot.shard]->BlockTableOf(row.sequence->slot.slot),
                row.sequence->blocks.blocks());
      ++n_rows;
    }
    for (const auto& open : work.plan.open_slots) n_told_[{open.slot.shard, open.slot.slot}] = 0;
    for (const auto& set : work.plan.set_blocks) {
      uint32_t& n_told = n_told_[{set.slot.shard, set.slot.slot}];
      set.index < n_told ? ++n_replaced : ++n_told;
    }
    auto merged = MergeResults(work.plan, std::move(results));
    LONGSHELF_CHECK(merged.ok());
    const std::vector<EndedSequence> ended = committer_.Commit(work, *merged);
    scheduler_.ReleaseLeaving();
    for (const EndedSequence& end : ended) scheduler_.Retire(end.id);
    scheduler_.CheckInvariants();
    return work.plan;
  }

  int n_rows = 0;
  int n_replaced = 0;  // entries told in place of another: a twin had filled the same block first

 private:
  EngineConfig Config() {
    EngineConfig config = SmallConfig();
    config.n_context_max = 4096;
    config.step_token_budget = 1 + static_cast<int64_t>(Below(700));
    config.admission_headroom_tokens = static_cast<int64_t>(Below(2) * Below(400));
    return config;
  }
  static std::vector<std::unique_ptr<Executor>> MakeShards(int n, uint32_t n_slots, uint32_t n_blocks) {
    std::vector<std::unique_ptr<Executor>> shards;
    for (int i = 0; i < n; ++i) {
      auto made = Executor::Create(std::make_unique<FakeModel>(), {.n_slots = n_slots, .n_blocks = n_blocks});
      LONGSHELF_CHECK(made.ok());
      shards.push_back(*std::move(made));
    }
    return shards;
  }

  std::mt19937_64 random_;
  const EngineConfig config_;
  std::vector<std::unique_ptr<Executor>> shards_;
  const GroupShape shape_ = shards_[0]->shape(static_cast<int>(shards_.size()));
  const std::shared_ptr<KvCopyLedger> copies_ = std::make_shared<KvCopyLedger>();
  PrefixCache cache_{shape_.n_shards, shape_.n_blocks_per_shard, config_.checkpoint_memory_bytes};
  Scheduler scheduler_{config_, shape_, cache_};
  DraftPolicy drafts_;
  StepBuilder builder_{config_, shape_, scheduler_, cache_, *copies_};
  const StepPacer pacer_{absl::ZeroDuration()};
  NullObserver observer_;
  StepCommitter committer_{config_, scheduler_, cache_, drafts_, observer_};
  std::map<std::pair<uint16_t, uint16_t>, uint32_t> n_told_;  // entries of each slot's table
  uint64_t n_submitted_ = 0;
};

TEST(BlockTables, OfTheShardsEqualTheSchedulersWheneverARowRuns) {
  int n_rows = 0;
  int n_replaced = 0;
  for (uint64_t seed = 1; seed <= 40 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Plans plans(seed, 1 + static_cast<int>(seed % 3), 1 + static_cast<uint32_t>(seed % 7), 9 + seed % 8);
    // Few different beginnings, so that twins compute the same blocks at the same time.
    for (int n_left = 40; n_left > 0 || !plans.idle();) {
      for (; n_left > 0 && plans.has_room() && plans.Below(3) > 0; --n_left) {
        auto prompt = Prompt(256 * plans.Below(5), plans.Below(3));
        plans.Submit(Join(std::move(prompt), Prompt(1 + plans.Below(40), plans.Below(4))),
                     1 + static_cast<uint32_t>(plans.Below(400)));
      }
      if (plans.Below(30) == 0) plans.RemoveOne();
      plans.Step();
    }
    n_rows += plans.n_rows;
    n_replaced += plans.n_replaced;
  }
  EXPECT_GT(n_rows, 5000);
  EXPECT_GT(n_replaced, 50);
}

TEST(BlockTables, APlanOfADecodeStepIsAsLongAfterThousandsOfTokensAsAfterTen) {
  const auto decode_plan_bytes = [](size_t n_prompt) {
    Plans plans(1, 1, 1, 20);
    plans.Submit(Prompt(n_prompt, 1), 50);
    StepPlan plan = plans.Step();
    while (plan.rows.empty() || !plan.open_slots.empty() || plan.rows[0].n_past < static_cast<int64_t>(n_prompt)) {
      plan = plans.Step();
    }
    return plan.Serialize().size();
  };
  EXPECT_EQ(decode_plan_bytes(10), decode_plan_bytes(4000));
}

TEST(BlockTable, TellsEachChangeOnce) {
  const SlotId slot{1, 2};
  BlockTable table;
  std::vector<StepPlan::SetBlock> told;
  for (const uint32_t block : {7, 8, 9}) table.Append(block);
  table.Replace(2, 5);  // not told yet: no change of its own
  table.TakeChanges(slot, told);
  EXPECT_EQ(told, (std::vector<StepPlan::SetBlock>{{slot, 0, 7}, {slot, 1, 8}, {slot, 2, 5}}));
  told.clear();
  table.TakeChanges(slot, told);
  EXPECT_TRUE(told.empty());
  table.Replace(0, 7);  // the same
  table.Replace(1, 4);
  table.Append(3);
  table.TakeChanges(slot, told);
  EXPECT_EQ(told, (std::vector<StepPlan::SetBlock>{{slot, 1, 4}, {slot, 3, 3}}));
  told.clear();
  table.Clear();
  table.Append(6);
  table.TakeChanges(slot, told);
  EXPECT_EQ(told, (std::vector<StepPlan::SetBlock>{{slot, 0, 6}}));
}

}  // namespace
}  // namespace longshelf::engine
