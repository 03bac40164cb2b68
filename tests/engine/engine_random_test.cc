// Random traffic against the definition of the fake model: whatever is submitted, cancelled, parked and restored, every
// token is the right one, every request ends exactly once and nothing is left behind.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_feed.h"
#include "fake_model.h"
#include "prompt_scores.h"

namespace longshelf::engine {
namespace {

const FakeHasher kHasher;

class RandomTraffic {
 public:
  RandomTraffic(uint64_t seed, int n_shards, uint32_t n_slots, uint32_t n_blocks)
      : random_(seed),
        config_(Config()),
        n_blocks_(n_blocks),
        group_(MakeFakeGroup(n_shards, n_slots, n_blocks, seed % 4 == 0 ? 0 : 8, seed % 3 == 0 ? 5 : 0,
                             seed % 2 == 0 ? 300 : 0)),
        harness_(config_, *group_, kHasher) {
    group_->keep_plans = false;
  }

  void Run(int n_requests) {
    n_left_ = n_requests;
    group_->on_plan = [this](const StepPlan& plan) {
      CheckPlan(plan);
      if (plan.opcode == StepPlan::Opcode::kStep) Act();
    };
    for (int i = 0; i < n_requests; ++i) harness_.Then([this] { Act(); });
    const absl::Status status = harness_.Run();
    ASSERT_TRUE(status.ok()) << status;
    for (const Run1& run : runs_) CheckRun(run);
    EXPECT_EQ(harness_.load.n_blocks_free, harness_.load.n_blocks_total);
    EXPECT_EQ(harness_.load.n_running, 0U);
  }
  int n_finished() const { return n_finished_; }
  int n_reused() const { return n_reused_; }
  int n_restored() const { return n_restored_; }
  int n_scored() const { return n_scored_; }
  int n_preempted() const { return static_cast<int>(harness_.load.n_preempted); }

 private:
  struct Run1 {
    uint64_t id;
    std::vector<uint32_t> prompt;
    std::vector<uint32_t> committed;
    uint32_t max_tokens;
    std::shared_ptr<RecordingSink> sink;
    std::optional<uint32_t> n_scored = std::nullopt;  // its other prompt tokens are to be scored
    bool cancelled = false;
  };

  EngineConfig Config() {
    EngineConfig config = SmallConfig();
    config.n_context_max = 2500;
    config.n_sequences_max = 4 + static_cast<uint32_t>(Below(12));
    config.n_waiting_max = 1 + static_cast<uint32_t>(Below(20));
    config.step_token_budget = 1 + static_cast<int64_t>(Below(700));
    config.admission_headroom_tokens = static_cast<int64_t>(Below(2) * Below(400));
    config.checkpoint_interval_tokens = 256 * (1 + static_cast<int64_t>(Below(4)));
    config.checkpoint_memory_bytes = Below(2) == 0 ? 40000 : 64 << 20;
    config.export_cache_objects = Below(2) == 0;
    return config;
  }
  uint64_t Below(uint64_t n) { return random_() % n; }

  // A prompt: something said before, cut anywhere, and something new.
  std::vector<uint32_t> NewPrompt() {
    std::vector<uint32_t> prompt;
    if (!history_.empty() && Below(4) > 0) {
      prompt = history_[Below(history_.size())];
      if (Below(3) == 0) prompt.resize(1 + Below(prompt.size()));
    }
    const size_t n_new = Below(3) == 0 ? Below(900) : 1 + Below(40);
    prompt = Join(std::move(prompt), Prompt(n_new, random_()));
    if (prompt.size() > 2000) prompt.resize(2000);
    if (prompt.empty()) prompt = {5};
    if (Below(40) == 0) prompt[Below(prompt.size())] = FakeModel::kPoison;
    return prompt;
  }

  void Act() {
    if (n_left_ > 0 && Below(3) > 0) {
      --n_left_;
      SubmitOne();
    }
    if (!runs_.empty() && Below(12) == 0) {
      Run1& run = runs_[Below(runs_.size())];
      if (!run.sink->ended()) {
        run.cancelled = true;
        harness_.Cancel(run.id);
      }
    }
    if (!history_.empty() && Below(8) == 0) {
      const auto tokens = history_[Below(history_.size())];
      harness_.Export(tokens, [this, tokens](absl::StatusOr<std::vector<KvObject>> objects) {
        if (!objects.ok()) return;
        parked_ = {tokens, *std::move(objects)};
        ParkEarlier();
      });
    }
    if (!history_.empty() && Below(8) == 0) {
      const auto tokens = history_[Below(history_.size())];
      harness_.Probe(tokens, [n = tokens.size()](int64_t n_tokens) {
        EXPECT_GE(n_tokens, 0);
        EXPECT_LT(n_tokens, static_cast<int64_t>(n));
      });
    }
  }

  // A position before the one that is parked.
  void ParkEarlier() {
    parked_earlier_.clear();
    std::vector<uint32_t> tokens = parked_.first;
    tokens.resize(1 + Below(tokens.size()));
    harness_.Export(tokens, [this, of = parked_.first](absl::StatusOr<std::vector<KvObject>> objects) {
      if (objects.ok() && of == parked_.first) parked_earlier_ = *std::move(objects);
    });
  }

  std::shared_ptr<FakeFeed> FeedOfParked() {
    auto feed = std::make_shared<FakeFeed>(parked_.second);
    if (Below(8) == 0) feed->end.state.clear();
    if (Below(8) == 0) feed->breaks_at = static_cast<int64_t>(Below(4));
    if (!parked_earlier_.empty() && Below(2) == 0) feed->end = FakeFeed(parked_earlier_).end;
    if (Below(3) == 0) {  // comes bit by bit, and sometimes the engine has nothing else to do meanwhile
      feed->n_arrived = 0;
      feed->on_take = [this, f = feed.get(), n = 0]() mutable {
        if (++n % 3 == 0) ++f->n_arrived;
        EXPECT_TRUE(harness_.inbox().Post(Wake{}));
      };
    }
    return feed;
  }

  void SubmitOne() {
    Run1 run{.id = ++next_id_,
             .prompt = NewPrompt(),
             .committed = {},
             .max_tokens = 1 + static_cast<uint32_t>(Below(6) == 0 ? Below(500) : Below(60)),
             .sink = nullptr,
             .cancelled = false};
    SequenceRequest request;
    if (!parked_.second.empty() && Below(3) == 0) {
      run.prompt = Join(parked_.first, Prompt(1 + Below(30), random_()));
      request.feed = FeedOfParked();
    }
    if (Below(6) == 0) {
      const auto output = FakeModel::Continue(run.prompt, run.max_tokens, config_.eos_token_id);
      run.committed.assign(output.begin(), output.begin() + static_cast<std::ptrdiff_t>(Below(output.size())));
    }
    if (run.committed.empty() && Below(6) == 0) {
      run.n_scored = Below(2) == 0 ? 0 : static_cast<uint32_t>(Below(run.prompt.size() + 1));
      if (Below(3) == 0) run.max_tokens = 0;
    }
    request.id = run.id;
    request.prompt = run.prompt;
    request.committed = run.committed;
    request.max_tokens = run.max_tokens;
    request.prompt_logprobs = run.n_scored.has_value();
    request.n_prompt_scored = run.n_scored.value_or(0);
    request.sampling.temperature = 0.0;
    request.no_cache_read = Below(15) == 0;
    request.namespace_salt = "";
    request.tenant = std::string(1, static_cast<char>('a' + Below(4)));
    request.tier = static_cast<ServiceTier>(Below(3));
    run.sink = harness_.Submit(std::move(request));
    // What it says becomes part of later prompts.
    history_.push_back(Join(run.prompt, FakeModel::Continue(run.prompt, run.max_tokens, config_.eos_token_id)));
    if (history_.size() > 12) history_.erase(history_.begin());
    runs_.push_back(std::move(run));
  }

  // No block is written by two, and none that somebody writes is read by another.
  void CheckPlan(const StepPlan& plan) {
    for (const auto& open : plan.open_slots) tables_[{open.slot.shard, open.slot.slot}].clear();
    for (const auto& set : plan.set_blocks) {
      std::vector<uint32_t>& table = tables_[{set.slot.shard, set.slot.slot}];
      ASSERT_LE(set.index, table.size());
      if (set.index == table.size()) table.emplace_back();
      table[set.index] = set.block;
    }
    std::map<std::pair<uint16_t, uint32_t>, int> n_readers;
    for (const auto& row : plan.rows) {
      for (const uint32_t block : tables_[{row.slot.shard, row.slot.slot}]) {
        EXPECT_LT(block, n_blocks_);
        ++n_readers[{row.slot.shard, block}];
      }
    }
    for (const auto& row : plan.rows) {
      if (row.replay_begin >= 0) continue;  // reads only
      const auto n_end = row.n_past + static_cast<int64_t>(row.tokens.size());
      for (int64_t i = row.n_past / 256; i <= (n_end - 1) / 256; ++i) {
        const auto& table = tables_[{row.slot.shard, row.slot.slot}];
        EXPECT_EQ((n_readers[{row.slot.shard, table[static_cast<size_t>(i)]}]), 1);
      }
    }
  }

  void CheckRun(const Run1& run) {
    ASSERT_TRUE(run.sink->ended());
    EXPECT_EQ(run.sink->n_after_end, 0);
    const auto whole = FakeModel::Continue(run.prompt, run.max_tokens, config_.eos_token_id);
    const std::vector<uint32_t> expected(whole.begin() + static_cast<std::ptrdiff_t>(run.committed.size()),
                                         whole.end());
    const auto tokens = run.sink->tokens();
    const bool poisoned = std::find(run.prompt.begin(), run.prompt.end(), FakeModel::kPoison) != run.prompt.end();
    if (run.sink->failed.has_value()) {
      const auto code = run.sink->failed->code();
      EXPECT_TRUE(code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kInvalidArgument ||
                  (poisoned && code == absl::StatusCode::kInternal))
          << *run.sink->failed;
      return;
    }
    n_reused_ += run.sink->started.has_value() && run.sink->started->n_cached_local > 0;
    n_restored_ += run.sink->started.has_value() && run.sink->started->n_cached_store > 0;
    if (run.sink->finished->reason == FinishReason::kCancelled) {
      EXPECT_TRUE(run.cancelled);
      ASSERT_LE(tokens.size(), expected.size());
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin()));
      return;
    }
    // The last token of a prompt that nothing is sampled after is not looked at.
    EXPECT_TRUE(!poisoned || run.max_tokens == 0);
    EXPECT_EQ(tokens, expected);
    const size_t n_scored = run.n_scored.has_value() ? std::max(1U, *run.n_scored) : run.prompt.size();
    EXPECT_EQ(run.sink->scored, ScoresOf(run.prompt, n_scored));
    n_scored_ += run.sink->scored.empty() ? 0 : 1;
    ++n_finished_;
  }

  std::mt19937_64 random_;
  EngineConfig config_;
  const uint32_t n_blocks_;
  std::unique_ptr<FakeGroup> group_;
  Harness harness_;
  std::vector<Run1> runs_;
  std::map<std::pair<uint16_t, uint16_t>, std::vector<uint32_t>> tables_;  // as the plans so far tell, by slot
  std::vector<std::vector<uint32_t>> history_;
  std::pair<std::vector<uint32_t>, std::vector<KvObject>> parked_;
  std::vector<KvObject> parked_earlier_;  // of the same tokens, up to an earlier position
  uint64_t next_id_ = 0;
  int n_left_ = 0;
  int n_finished_ = 0;
  int n_reused_ = 0;
  int n_restored_ = 0;
  int n_scored_ = 0;
};

TEST(EngineUnderRandomTraffic, GivesRightTokensAndReturnsToItsBaseline) {
  int n_finished = 0;
  int n_reused = 0;
  int n_restored = 0;
  int n_scored = 0;
  int n_preempted = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const int n_shards = 1 + static_cast<int>(seed % 3);
    RandomTraffic traffic(seed, n_shards, 1 + static_cast<uint32_t>(seed % 9), 10 + static_cast<uint32_t>(seed % 11));
    traffic.Run(80);
    n_finished += traffic.n_finished();
    n_reused += traffic.n_reused();
    n_restored += traffic.n_restored();
    n_scored += traffic.n_scored();
    n_preempted += traffic.n_preempted();
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(n_finished, 1000);
  EXPECT_GT(n_reused, 300);
  EXPECT_GT(n_restored, 10);
  EXPECT_GT(n_scored, 200);
  EXPECT_GT(n_preempted, 100);
}

}  // namespace
}  // namespace longshelf::engine
