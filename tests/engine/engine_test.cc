#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_model.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

const FakeHasher kHasher;

void ExpectOutput(const RecordingSink& sink, const std::vector<uint32_t>& prompt, size_t max_tokens) {
  const auto expected = FakeModel::Continue(prompt, max_tokens, SmallConfig().eos_token_id);
  EXPECT_EQ(sink.tokens(), expected);
  ASSERT_TRUE(sink.finished.has_value()) << (sink.failed.has_value() ? sink.failed->ToString() : "no end");
  EXPECT_EQ(sink.finished->n_output_tokens, expected.size());
  EXPECT_EQ(sink.finished->reason, expected.back() == 1 ? FinishReason::kStop : FinishReason::kLength);
  EXPECT_EQ(sink.n_after_end, 0);
}

int64_t TokensPlanned(const FakeGroup& group) {
  int64_t n = 0;
  for (const StepPlan& plan : group.plans) {
    for (const auto& row : plan.rows) n += static_cast<int64_t>(row.tokens.size());
  }
  return n;
}

TEST(Engine, GivesTheModelsTokensForEveryLengthAndBudget) {
  for (const int64_t budget : {1, 7, 100, 256, 512, 5000}) {
    auto group = MakeFakeGroup(1, 16, 64);
    EngineConfig config = SmallConfig();
    config.step_token_budget = budget;
    Harness harness(config, *group, kHasher);
    std::vector<std::pair<std::vector<uint32_t>, std::shared_ptr<RecordingSink>>> runs;
    harness.Then([&] {
      for (const size_t n : {1, 2, 3, 127, 128, 255, 256, 257, 511, 513, 1000}) {
        runs.emplace_back(Prompt(n, n), harness.Submit(Request(Prompt(n, n), 20)));
      }
    });
    ASSERT_TRUE(harness.Run().ok());
    for (const auto& [prompt, sink] : runs) ExpectOutput(*sink, prompt, 20);
    EXPECT_EQ(harness.load.n_blocks_free, 64U);
    EXPECT_TRUE(group->shut_down);
  }
}

TEST(Engine, DeliversAndCountsTheStopToken) {
  const auto prompt = Prompt(10, 1);
  const auto output = FakeModel::Continue(prompt, 8, /*eos=*/1000);
  auto group = MakeFakeGroup(1, 4, 8);
  Harness harness(SmallConfig(), *group, kHasher);
  std::shared_ptr<RecordingSink> sink;
  harness.Then([&] {
    SequenceRequest request = Request(prompt, 100);
    request.stop_token_ids = {95, output[3]};
    sink = harness.Submit(std::move(request));
  });
  ASSERT_TRUE(harness.Run().ok());
  const auto at = std::find(output.begin(), output.end(), output[3]) - output.begin();
  EXPECT_EQ(sink->tokens(), std::vector<uint32_t>(output.begin(), output.begin() + at + 1));
  EXPECT_EQ(sink->finished->reason, FinishReason::kStop);
  EXPECT_EQ(sink->finished->n_output_tokens, static_cast<uint32_t>(at + 1));
}

TEST(Engine, StopsAtTheContextLimit) {
  auto group = MakeFakeGroup(1, 4, 8);
  EngineConfig config = EndlessConfig();
  config.n_context_max = 40;
  Harness harness(config, *group, kHasher);
  std::shared_ptr<RecordingSink> sink;
  harness.Then([&] { sink = harness.Submit(Request(Prompt(30, 4), 100)); });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(sink->sampled.size(), 10U);
  EXPECT_EQ(sink->finished->reason, FinishReason::kLength);
}

TEST(Engine, GoesOnAfterCommittedTokensAsIfNothingHadHappened) {
  const auto prompt = Prompt(300, 2);
  const auto whole = FakeModel::Continue(prompt, 12, 1);
  ASSERT_GT(whole.size(), 5U);
  auto group = MakeFakeGroup(1, 4, 8);
  Harness harness(SmallConfig(), *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (size_t n = 0; n < whole.size(); ++n) {
      SequenceRequest request = Request(prompt, 12);
      request.committed.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
      sinks.push_back(harness.Submit(std::move(request)));
    }
  });
  ASSERT_TRUE(harness.Run().ok());
  for (size_t n = 0; n < whole.size(); ++n) {
    EXPECT_EQ(sinks[n]->first_index, n);
    EXPECT_EQ(sinks[n]->tokens(), std::vector<uint32_t>(whole.begin() + static_cast<std::ptrdiff_t>(n), whole.end()));
    EXPECT_EQ(sinks[n]->finished->n_output_tokens, whole.size());
  }
}

TEST(Engine, EndsAtOnceWhenTheCommittedTokensAreAll) {
  auto group = MakeFakeGroup(1, 4, 8);
  Harness harness(SmallConfig(), *group, kHasher);
  std::shared_ptr<RecordingSink> by_length;
  std::shared_ptr<RecordingSink> by_stop;
  harness.Then([&] {
    SequenceRequest request = Request(Prompt(5, 5), 2);
    request.committed = {10, 11};
    by_length = harness.Submit(std::move(request));
    request = Request(Prompt(5, 5), 9);
    request.committed = {10, 1};
    by_stop = harness.Submit(std::move(request));
  });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(by_length->finished->reason, FinishReason::kLength);
  EXPECT_EQ(by_length->finished->n_output_tokens, 2U);
  EXPECT_EQ(by_stop->finished->reason, FinishReason::kStop);
}

TEST(Engine, SamplesTheSameAloneAndInACrowd) {
  const auto prompt = Prompt(40, 6);
  SequenceRequest sampled = Request(prompt, 30);
  sampled.sampling = {.temperature = 1.5, .top_p = 0.95, .seed = 77, .frequency_penalty = 0.5, .logprobs = true};
  const auto clone = [&] {
    SequenceRequest request = Request(sampled.prompt, sampled.max_tokens);
    request.sampling = sampled.sampling;
    request.return_logits = true;
    return request;
  };
  std::vector<std::vector<SampledToken>> outputs;
  for (const size_t n_others : {0, 15}) {
    auto group = MakeFakeGroup(1, 16, 64);
    Harness harness(SmallConfig(), *group, kHasher);
    std::shared_ptr<RecordingSink> sink;
    harness.Then([&] {
      for (size_t i = 0; i < n_others; ++i) harness.Submit(Request(Prompt(20 + 13 * i, 100 + i), 25));
      sink = harness.Submit(clone());
    });
    ASSERT_TRUE(harness.Run().ok());
    outputs.push_back(sink->sampled);
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  EXPECT_EQ(outputs[0][0].logits.size(), FakeModel::kVocab);
}

TEST(Engine, RefusesWhatCannotBeServedNamingTheLimit) {
  auto group = MakeFakeGroup(1, 4, 2);
  EngineConfig config = SmallConfig();
  Harness harness(config, *group, kHasher);
  struct Case {
    std::string why;
    std::shared_ptr<RecordingSink> sink;
  };
  std::vector<Case> cases;
  harness.Then([&] {
    const auto refuse = [&](std::string why, SequenceRequest request) {
      cases.push_back({std::move(why), harness.Submit(std::move(request))});
    };
    refuse("prompt is empty", Request({}, 1));
    refuse("context", Request(Prompt(4096, 1), 1));
    refuse("KV blocks", Request(Prompt(5, 1), 512));
    refuse("vocabulary", Request({FakeModel::kVocab}, 1));
    SequenceRequest request = Request(Prompt(5, 1), 1);
    request.sampling.top_p = 2.0;
    refuse("top_p", std::move(request));
    request = Request(Prompt(5, 1), 1);
    request.committed = {3, 4};
    refuse("committed", std::move(request));
    request = Request(Prompt(5, 1), 1);
    request.stop_token_ids.assign(1000, 3);
    refuse("stop_token_ids", std::move(request));
  });
  ASSERT_TRUE(harness.Run().ok());
  for (const Case& c : cases) {
    ASSERT_TRUE(c.sink->failed.has_value()) << c.why;
    EXPECT_EQ(c.sink->failed->code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(c.sink->failed->message()), HasSubstr(c.why));
    EXPECT_FALSE(c.sink->started.has_value());
  }
}

TEST(Engine, AnswersResourceExhaustedWhenTheQueueIsFull) {
  auto group = MakeFakeGroup(1, 1, 8);
  EngineConfig config = SmallConfig();
  config.n_waiting_max = 3;
  config.n_sequences_max = 1;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (int i = 0; i < 6; ++i) sinks.push_back(harness.Submit(Request(Prompt(5, 1), 3)));
  });
  ASSERT_TRUE(harness.Run().ok());
  for (size_t i = 0; i < sinks.size(); ++i) {
    if (i < 3) {
      EXPECT_TRUE(sinks[i]->finished.has_value());
    } else {
      EXPECT_EQ(sinks[i]->failed->code(), absl::StatusCode::kResourceExhausted);
    }
  }
}

TEST(Engine, CancellingFreesSlotAndBlocksWithinOneStep) {
  auto group = MakeFakeGroup(1, 1, 4);
  EngineConfig config = SmallConfig();
  config.checkpoint_memory_bytes = 0;
  Harness harness(config, *group, kHasher);
  std::shared_ptr<RecordingSink> first;
  std::shared_ptr<RecordingSink> second;
  harness.Then([&] {
    SequenceRequest request = Request(Prompt(5, 1), 900);
    request.id = 7;
    first = harness.Submit(std::move(request));
    second = harness.Submit(Request(Prompt(6, 2), 900));
  });
  size_t n_plans_at_cancel = 0;
  group->on_plan = [&](const StepPlan&) {
    if (group->plans.size() != 5) return;
    n_plans_at_cancel = group->plans.size() + 1;  // this step runs to its end
    harness.Cancel(7);
  };
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(first->finished->reason, FinishReason::kCancelled);
  EXPECT_EQ(first->finished->n_output_tokens, first->sampled.size());
  ASSERT_TRUE(second->finished.has_value());
  // The next step already opens the only slot for the one that waited for it.
  ASSERT_EQ(group->plans[n_plans_at_cancel].open_slots.size(), 1U);
  EXPECT_EQ(group->plans[n_plans_at_cancel].rows[0].tokens.size(), 6U);
  EXPECT_EQ(harness.load.n_blocks_free, 4U);
}

TEST(Engine, FailsOnlyTheSequenceWhoseLogitsAreNotNumbers) {
  auto group = MakeFakeGroup(1, 4, 16);
  Harness harness(SmallConfig(), *group, kHasher);
  const auto good = Prompt(300, 8);
  auto bad = Prompt(300, 9);
  bad[200] = FakeModel::kPoison;
  std::shared_ptr<RecordingSink> good_sink;
  std::shared_ptr<RecordingSink> bad_sink;
  harness.Then([&] {
    bad_sink = harness.Submit(Request(bad, 10));
    good_sink = harness.Submit(Request(good, 10));
  });
  ASSERT_TRUE(harness.Run().ok());
  ASSERT_TRUE(bad_sink->failed.has_value());
  EXPECT_EQ(bad_sink->failed->code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(bad_sink->failed->message()), HasSubstr("not a number"));
  ExpectOutput(*good_sink, good, 10);
  EXPECT_EQ(harness.load.n_blocks_free, 16U);
  // The prompt's end, where it failed, left nothing behind.
  const auto n_at_300 = std::count_if(harness.known.begin(), harness.known.end(),
                                      [](const auto& entry) { return entry.second.n_tokens == 300; });
  EXPECT_EQ(n_at_300, 1);
}

TEST(Engine, TellsEverySequenceWhenAStepFails) {
  auto group = MakeFakeGroup(1, 2, 16);
  group->fail = [&](const StepPlan& plan) {
    return plan.opcode == StepPlan::Opcode::kStep && group->plans.size() == 3 ? absl::UnavailableError("peer 1 is gone")
                                                                              : absl::OkStatus();
  };
  Harness harness(SmallConfig(), *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (uint64_t i = 0; i < 4; ++i) sinks.push_back(harness.Submit(Request(Prompt(5, i), 500)));
  });
  const absl::Status status = harness.Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  for (const auto& sink : sinks) {
    ASSERT_TRUE(sink->failed.has_value());
    EXPECT_EQ(sink->failed->code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(sink->failed->message()), HasSubstr("peer 1 is gone"));
  }
  EXPECT_FALSE(group->shut_down);
  EXPECT_FALSE(harness.inbox().Post(Cancel{1}));
}

TEST(Engine, CancelsWhatIsLeftWhenTheInboxCloses) {
  auto group = MakeFakeGroup(1, 1, 16);
  Harness harness(SmallConfig(), *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (uint64_t i = 0; i < 3; ++i) sinks.push_back(harness.Submit(Request(Prompt(5, i), 2000)));
  });
  group->on_plan = [&](const StepPlan&) {
    if (group->plans.size() == 4) harness.inbox().Close();
  };
  ASSERT_TRUE(harness.Run().ok());
  for (const auto& sink : sinks) EXPECT_EQ(sink->finished->reason, FinishReason::kCancelled);
  EXPECT_TRUE(group->shut_down);
}

TEST(Engine, DrainingLetsRunningFinishAndSendsTheOthersAway) {
  auto group = MakeFakeGroup(1, 1, 16);
  Harness harness(SmallConfig(), *group, kHasher);
  const auto prompt = Prompt(5, 1);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    sinks.push_back(harness.Submit(Request(prompt, 12)));
    sinks.push_back(harness.Submit(Request(prompt, 12)));
  });
  group->on_plan = [&](const StepPlan&) {
    if (group->plans.size() != 2) return;
    harness.Drain();
    sinks.push_back(harness.Submit(Request(prompt, 12)));
  };
  ASSERT_TRUE(harness.Run().ok());
  ExpectOutput(*sinks[0], prompt, 12);
  EXPECT_EQ(sinks[1]->failed->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(sinks[2]->failed->code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(harness.load.draining);
}

TEST(Engine, ReportsPrefillProgress) {
  auto group = MakeFakeGroup(1, 1, 16);
  EngineConfig config = SmallConfig();
  config.step_token_budget = 100;
  Harness harness(config, *group, kHasher);
  std::shared_ptr<RecordingSink> sink;
  harness.Then([&] { sink = harness.Submit(Request(Prompt(250, 1), 1)); });
  ASSERT_TRUE(harness.Run().ok());
  ASSERT_EQ(sink->progress.size(), 2U);
  EXPECT_EQ(sink->progress[0].n_done, 100U);
  EXPECT_EQ(sink->progress[1].n_done, 200U);
  EXPECT_EQ(sink->progress[1].n_total, 250U);
}

TEST(Engine, IdleEngineSleepsAndWakesAtOnce) {
  auto group = MakeFakeGroup(1, 4, 16);
  group->keep_plans = false;
  std::atomic<int> n_plans = 0;
  group->on_plan = [&](const StepPlan&) { ++n_plans; };
  struct NullObserver final : EngineObserver {
    void OnLoad(const Load&) override { ++n_loads; }
    void OnCheckpointsChanged(std::vector<CachedCheckpoint>, std::vector<PrefixKey>) override {}
    void OnCacheObjects(const CacheChain&, std::vector<ParkedObject>) override {}
    void OnCheckpointsDropped(const CacheChain&, std::vector<PrefixKey>) override {}
    std::atomic<int> n_loads = 0;
  } observer;
  struct CountingSink final : EventSink {
    void OnEvent(SequenceEvent event) override {
      if (std::holds_alternative<Finished>(event)) {
        done = true;
        done.notify_all();
      }
    }
    std::atomic<bool> done = false;
  };
  Mailbox<EngineMessage> inbox(10);
  const SystemClock clock;
  Engine engine(SmallConfig(), *group, kHasher, clock, inbox, observer);
  std::thread thread([&] { EXPECT_TRUE(engine.Run().ok()); });
  for (int i = 0; i < 3; ++i) {
    auto sink = std::make_shared<CountingSink>();
    SequenceRequest request = Request(Prompt(5, 3), 2);
    request.id = static_cast<uint64_t>(i + 1);
    request.sink = sink;
    EXPECT_TRUE(inbox.Post(Submit{std::move(request)}));
    sink->done.wait(false);
  }
  inbox.Close();
  thread.join();
  // Two tokens each, one export at the end of each, and the shutdown: an idle engine runs nothing.
  EXPECT_LE(n_plans.load(), 3 * 3 + 1);
  EXPECT_LE(observer.n_loads.load(), 3 * 5 + 2);
}

// ---- scheduling policy, read from the plans

TEST(Engine, DecodeRowsComeFirstAndTheBudgetHolds) {
  auto group = MakeFakeGroup(1, 16, 64);
  EngineConfig config = SmallConfig();
  config.step_token_budget = 64;
  Harness harness(config, *group, kHasher);
  harness.Then([&] {
    for (uint64_t i = 0; i < 8; ++i) harness.Submit(Request(Prompt(3, i), 200));
    harness.Submit(Request(Prompt(2000, 50), 5));
    harness.Submit(Request(Prompt(1500, 51), 5));
  });
  ASSERT_TRUE(harness.Run().ok());
  for (const StepPlan& plan : group->plans) {
    size_t n_tokens = 0;
    bool saw_prefill = false;
    for (const auto& row : plan.rows) {
      n_tokens += row.tokens.size();
      saw_prefill |= row.tokens.size() > 1;
      const bool is_decode = row.tokens.size() == 1 && row.sample;
      EXPECT_FALSE(is_decode && saw_prefill) << "a decode row after a prefill chunk";
    }
    EXPECT_LE(n_tokens, 64U);
  }
}

TEST(Engine, ALongPromptDoesNotStarveShortOnesNorTheOtherWayRound) {
  auto group = MakeFakeGroup(1, 16, 256);
  EngineConfig config = SmallConfig();
  config.n_context_max = 1 << 16;
  config.step_token_budget = 128;
  Harness harness(config, *group, kHasher);
  std::shared_ptr<RecordingSink> giant;
  std::vector<std::shared_ptr<RecordingSink>> shorts;
  std::vector<size_t> short_started_at;
  std::vector<size_t> short_token_at;
  uint64_t next = 0;
  const auto submit_short = [&] {
    shorts.push_back(harness.Submit(Request(Prompt(60, 1000 + next++), 1)));
    short_started_at.push_back(group->plans.size());
    short_token_at.push_back(0);
    shorts.back()->on_token = [&, i = shorts.size() - 1](const RecordingSink&) {
      short_token_at[i] = group->plans.size();
    };
  };
  size_t giant_token_at = 0;
  harness.Then([&] {
    giant = harness.Submit(Request(Prompt(12800, 1), 1));
    giant->on_token = [&](const RecordingSink&) { giant_token_at = group->plans.size(); };
  });
  // A short prompt arrives before every step: more than the rest of the budget can hold in the long run.
  group->on_plan = [&](const StepPlan& plan) {
    if (plan.opcode == StepPlan::Opcode::kStep && !plan.rows.empty() && !giant->ended()) submit_short();
  };
  ASSERT_TRUE(harness.Run().ok());
  for (size_t i = 0; i < shorts.size(); ++i) {
    ASSERT_TRUE(shorts[i]->finished.has_value());
    EXPECT_LE(short_token_at[i] - short_started_at[i], 8U) << "short " << i << " waited behind the giant";
  }
  // Half of 128 tokens per step: 200 steps, and one export-only step for each short one that ended meanwhile.
  EXPECT_LE(giant_token_at, 2 * 200 + 20U);
}

TEST(Engine, ALargeRequestIsPassedByOnlySoOften) {
  auto group = MakeFakeGroup(1, 64, 8);
  EngineConfig config = EndlessConfig();
  config.n_sequences_max = 64;
  Harness harness(config, *group, kHasher);
  std::shared_ptr<RecordingSink> large;
  std::vector<std::shared_ptr<RecordingSink>> smalls;
  harness.Then([&] {
    harness.Submit(Request(Prompt(10, 1), 1000));          // 4 of 8 blocks for a long time
    large = harness.Submit(Request(Prompt(1500, 2), 10));  // 6 of 8: has to wait
    for (uint64_t i = 0; i < 50; ++i) smalls.push_back(harness.Submit(Request(Prompt(10, 3 + i), 40)));
  });
  int64_t n_passed = -1;
  group->on_plan = [&](const StepPlan&) {
    if (n_passed >= 0 || !large->started.has_value()) return;
    n_passed = std::count_if(smalls.begin(), smalls.end(), [](const auto& s) { return s->started.has_value(); });
  };
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_GE(n_passed, 16) << "small ones wait for no reason";
  EXPECT_LE(n_passed, 16 + 2) << "the large one waits for ever";  // two fit beside it and come in the same step
  for (const auto& small : smalls) EXPECT_TRUE(small->finished.has_value());
}

TEST(Engine, HomesAreBalancedAndDeterministic) {
  const auto run = [] {
    auto group = MakeFakeGroup(4, 16, 64);
    Harness harness(SmallConfig(), *group, kHasher);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    harness.Then([&] {
      for (uint64_t i = 0; i < 12; ++i) sinks.push_back(harness.Submit(Request(Prompt(30 + i, i), 10)));
    });
    EXPECT_TRUE(harness.Run().ok());
    for (uint64_t i = 0; i < 12; ++i) ExpectOutput(*sinks[i], Prompt(30 + i, i), 10);
    std::vector<int> per_shard(4, 0);
    for (const auto& open : group->plans[0].open_slots) ++per_shard[open.slot.shard];
    EXPECT_EQ(per_shard, (std::vector<int>{3, 3, 3, 3}));
    return group->plans;
  };
  EXPECT_EQ(run(), run());
}

TEST(Engine, AdmitsOnlyWhatItsWorstCaseAllows) {
  auto group = MakeFakeGroup(1, 16, 10);
  EngineConfig config = EndlessConfig();
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  size_t n_rows_max = 0;
  harness.Then([&] {
    // Each may grow to 3 blocks: three at a time.
    for (uint64_t i = 0; i < 7; ++i) sinks.push_back(harness.Submit(Request(Prompt(20, i), 700)));
  });
  group->on_plan = [&](const StepPlan& plan) { n_rows_max = std::max(n_rows_max, plan.rows.size()); };
  ASSERT_TRUE(harness.Run().ok());
  for (uint64_t i = 0; i < 7; ++i) {
    EXPECT_EQ(sinks[i]->tokens(), FakeModel::Continue(Prompt(20, i), 700, 5000));
  }
  EXPECT_EQ(n_rows_max, 3U);
  EXPECT_EQ(harness.load.n_blocks_free, 10U);
}

TEST(Engine, RunsMoreThanTheWorstCaseAllowsAndPreemptsWhenOutputsAreLong) {
  auto group = MakeFakeGroup(1, 16, 12);
  EngineConfig config = EndlessConfig();
  config.admission_headroom_tokens = 100;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  size_t n_rows_max = 0;
  harness.Then([&] {
    // Each may grow to 6 blocks, so the worst case allows two; each starts with two.
    for (uint64_t i = 0; i < 6; ++i) sinks.push_back(harness.Submit(Request(Prompt(200, i), 1300)));
  });
  size_t n_opened = 0;
  group->on_plan = [&](const StepPlan& plan) {
    n_rows_max = std::max(n_rows_max, plan.rows.size());
    n_opened += plan.open_slots.size();
  };
  ASSERT_TRUE(harness.Run().ok());
  for (uint64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(sinks[i]->tokens(), FakeModel::Continue(Prompt(200, i), 1300, 5000)) << i;
    for (const PrefillProgress& p : sinks[i]->progress) EXPECT_EQ(p.n_total, 200U) << "nobody waits for this prefill";
  }
  EXPECT_EQ(n_rows_max, 6U);
  EXPECT_GT(n_opened, 6U);
  EXPECT_EQ(harness.load.n_blocks_free, 12U);
}

TEST(Engine, APreemptedSequenceKeepsItsSamplerAndSurvivesDraining) {
  const auto request = [](uint64_t seed) {
    SequenceRequest out = Request(Prompt(200, seed), 400);
    out.sampling = {.temperature = 1.2, .seed = seed, .presence_penalty = 0.5, .frequency_penalty = 0.3};
    return out;
  };
  EngineConfig config = EndlessConfig();
  config.admission_headroom_tokens = 0;
  std::vector<std::vector<uint32_t>> outputs[2];
  for (const uint32_t n_blocks : {64, 4}) {
    auto group = MakeFakeGroup(1, 16, n_blocks);
    Harness harness(config, *group, kHasher);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    harness.Then([&] {
      for (uint64_t i = 0; i < 3; ++i) sinks.push_back(harness.Submit(request(i)));
    });
    group->on_plan = [&](const StepPlan&) {
      if (group->plans.size() == 150) harness.Drain();
    };
    ASSERT_TRUE(harness.Run().ok());
    for (const auto& sink : sinks) {
      EXPECT_TRUE(sink->finished.has_value());
      outputs[n_blocks == 64 ? 0 : 1].push_back(sink->tokens());
    }
  }
  EXPECT_EQ(outputs[0], outputs[1]);
}

TEST(Engine, CountsOnlyComputedTokensWhenThePromptIsShared) {
  auto group = MakeFakeGroup(1, 16, 64);
  Harness harness(SmallConfig(), *group, kHasher);
  const auto shared = Prompt(768, 1);
  harness.Then([&] { harness.Submit(Request(Join(shared, Prompt(10, 2)), 1)); });
  int64_t n_first = 0;
  std::shared_ptr<RecordingSink> second;
  harness.Then([&] {
    n_first = TokensPlanned(*group);
    second = harness.Submit(Request(Join(shared, Prompt(20, 3)), 1));
  });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(n_first, 778);
  EXPECT_EQ(TokensPlanned(*group) - n_first, 20);
  EXPECT_EQ(second->started->n_cached_local, 768U);
}

}  // namespace
}  // namespace longshelf::engine
