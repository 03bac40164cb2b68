// Who runs next and how much of a step he gets: shares of tenants and tiers, time budgets, preemption, leaving.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "draft_policy.h"
#include "engine/microbatches.h"
#include "engine_harness.h"
#include "engine_requests.h"
#include "fair_share.h"
#include "fake_feed.h"
#include "fake_model.h"
#include "prompt_lookup.h"
#include "step_pacer.h"

namespace longshelf::engine {
namespace {

const FakeHasher kHasher;

SequenceRequest RequestOf(std::string tenant, std::vector<uint32_t> prompt, uint32_t max_tokens,
                          ServiceTier tier = ServiceTier::kDefault) {
  SequenceRequest request = Request(std::move(prompt), max_tokens);
  request.tenant = std::move(tenant);
  request.tier = tier;
  return request;
}

int64_t TokensPlanned(const FakeGroup& group) {
  int64_t n = 0;
  for (const StepPlan& plan : group.plans) {
    for (const auto& row : plan.rows) n += static_cast<int64_t>(row.tokens.size());
  }
  return n;
}

// ---- shares

TEST(FairShare, SharesFollowTheWeightsAndNobodyStarves) {
  FairShare shares;
  std::vector<Flow*> flows = {&shares.Join("a", ServiceTier::kFlex), &shares.Join("b", ServiceTier::kDefault),
                              &shares.Join("c", ServiceTier::kPriority)};
  std::map<const Flow*, double> got;
  std::mt19937_64 random(1);
  double total = 0;
  for (int i = 0; i < 20000; ++i) {
    Flow* next = *std::min_element(flows.begin(), flows.end(),
                                   [](const Flow* a, const Flow* b) { return FairShare::IsNextBefore(*a, *b); });
    const double cost = 1.0 + static_cast<double>(random() % 50);
    FairShare::Charge(*next, cost);
    got[next] += cost;
    total += cost;
  }
  EXPECT_NEAR(got[flows[0]] / total, 1.0 / 21, 0.005);
  EXPECT_NEAR(got[flows[1]] / total, 4.0 / 21, 0.005);
  EXPECT_NEAR(got[flows[2]] / total, 16.0 / 21, 0.005);
}

TEST(FairShare, WhoComesAnewNeitherSavedUpNorPaysForThePast) {
  FairShare shares;
  Flow& busy = shares.Join("busy", ServiceTier::kDefault);
  FairShare::Charge(busy, 1e6);
  Flow& fresh = shares.Join("fresh", ServiceTier::kDefault);
  EXPECT_EQ(fresh.served, busy.served);
  FairShare::Charge(fresh, 10);
  EXPECT_TRUE(FairShare::IsNextBefore(busy, fresh));
  EXPECT_EQ(&shares.Join("fresh", ServiceTier::kDefault), &fresh);
  shares.Leave(fresh);
  EXPECT_EQ(shares.n_flows(), 2U);
  shares.Leave(fresh);
  shares.Leave(busy);
  EXPECT_EQ(shares.n_flows(), 0U);
}

TEST(Scheduling, AnotherTenantIsNotHeldUpByAFullHouse) {
  auto group = MakeFakeGroup(1, 4, 64);
  EngineConfig config = EndlessConfig();
  config.n_sequences_max = 4;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> heavy;
  std::shared_ptr<RecordingSink> light;
  size_t asked_at = 0;
  size_t answered_at = 0;
  harness.Then([&] {
    for (uint64_t i = 0; i < 40; ++i) heavy.push_back(harness.Submit(RequestOf("heavy", Prompt(100, i), 200)));
  });
  group->on_plan = [&](const StepPlan&) {
    if (group->plans.size() != 20) return;
    asked_at = group->plans.size();
    light = harness.Submit(RequestOf("light", Prompt(50, 77), 5));
    light->on_token = [&](const RecordingSink& sink) {
      if (sink.sampled.size() == 1) answered_at = group->plans.size();
    };
  };
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_LE(answered_at - asked_at, 4U) << "one step to hear of it, one to make a place, one to compute";
  EXPECT_EQ(light->tokens(), ContinueWithoutEnd(Prompt(50, 77), 5));
  for (uint64_t i = 0; i < 40; ++i) {
    EXPECT_EQ(heavy[i]->tokens(), ContinueWithoutEnd(Prompt(100, i), 200)) << i;
  }
  EXPECT_GE(harness.load.n_preempted, 1U);
  // Moved out and back: nothing is computed twice but the token that was not processed yet.
  EXPECT_EQ(TokensPlanned(*group), 40 * (100 + 199) + 50 + 4);
}

TEST(Scheduling, PrioritiesDoNotStarveAndOneTenantAloneIsServedInOrder) {
  auto group = MakeFakeGroup(1, 2, 64);
  EngineConfig config = EndlessConfig();
  config.n_sequences_max = 2;
  Harness harness(config, *group, kHasher);
  std::vector<ServiceTier> finished;
  std::vector<uint64_t> order;
  struct Noting final : EventSink {
    std::function<void()> at_end;
    void OnEvent(SequenceEvent event) override {
      if (std::holds_alternative<Finished>(event)) at_end();
    }
  };
  harness.Then([&] {
    for (uint64_t i = 0; i < 60; ++i) {
      const ServiceTier tier = i < 30 ? ServiceTier::kFlex : ServiceTier::kPriority;
      SequenceRequest request = RequestOf("one", Prompt(20, i), 10, tier);
      request.id = i + 1;
      auto sink = std::make_shared<Noting>();
      sink->at_end = [&, i, tier] {
        finished.push_back(tier);
        if (tier == ServiceTier::kFlex) order.push_back(i);
      };
      request.sink = sink;
      EXPECT_TRUE(harness.inbox().Post(Submit{std::move(request)}));
    }
  });
  ASSERT_TRUE(harness.Run().ok());
  ASSERT_EQ(finished.size(), 60U);
  const auto n_flex =
      std::count(finished.begin(), finished.begin() + 30, ServiceTier::kFlex);  // while both had some left
  EXPECT_GE(n_flex, 1);
  EXPECT_LE(n_flex, 8);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

// ---- time

// A step of one row on each shard.
StepPlan PlanOf(std::initializer_list<size_t> n_tokens) {
  StepPlan plan;
  for (const size_t n : n_tokens) {
    StepPlan::Row& row = plan.rows.emplace_back();
    row.slot.shard = static_cast<uint16_t>(plan.rows.size() - 1);
    row.tokens.resize(n);
  }
  return plan;
}

// So many steps of a size, each of which takes as long as its way says; how many were in two.
int CountSplit(MicrobatchChoice& choice, int n_steps, size_t n_tokens, absl::Duration whole, absl::Duration split) {
  int n = 0;
  for (int i = 0; i < n_steps; ++i) {
    const int way = choice.Next(PlanOf({n_tokens, 1}), 2);
    choice.Observe((way == 2 ? split : whole) * (static_cast<double>(n_tokens) / 256.0));
    n += way - 1;
  }
  return n;
}

TEST(MicrobatchChoice, TakesTheFasterWayAndTriesTheOtherOneNowAndThen) {
  constexpr auto kFast = absl::Milliseconds(80);
  constexpr auto kSlow = absl::Milliseconds(100);
  MicrobatchChoice choice(Microbatches::kMeasured, {});
  EXPECT_EQ(CountSplit(choice, 6, 256, kSlow, kFast), 3) << "each way is tried first";
  EXPECT_EQ(CountSplit(choice, 640, 512, kSlow, kFast), 630) << "ten in 640 try the other way";
  // The network has got faster, or the machine busier.
  EXPECT_LE(CountSplit(choice, 64 * 8, 256, kFast, kSlow), 64 * 3 + 8);
  EXPECT_EQ(CountSplit(choice, 640, 256, kFast, kSlow), 10);
}

TEST(MicrobatchChoice, SplitsNoSmallStepAndNoneAtAllWhenToldSo) {
  MicrobatchChoice measured(Microbatches::kMeasured, {});
  EXPECT_EQ(CountSplit(measured, 100, 127, absl::Seconds(1), absl::Milliseconds(1)), 0);
  MicrobatchChoice never(Microbatches::kOne, {});
  EXPECT_EQ(CountSplit(never, 100, 512, absl::Seconds(1), absl::Milliseconds(1)), 0);
  MicrobatchChoice always(Microbatches::kTwo, {});
  EXPECT_EQ(CountSplit(always, 100, 128, absl::Milliseconds(1), absl::Seconds(1)), 100);
}

TEST(RowCost, TokensWithinIsTheMostThatFit) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    const RowCost cost{i % 5 == 0 ? 0.0 : 1e-8 * static_cast<double>(random() % 1000)};
    const auto n_past = static_cast<int64_t>(random() % 1048576);
    const auto n_max = 1 + static_cast<int64_t>(random() % 4096);
    const double budget = 1.0 + static_cast<double>(random() % 100000) / 10;
    const int64_t n = cost.TokensWithin(budget, n_past, n_max);
    ASSERT_LE(n, n_max);
    ASSERT_LE(cost.Of(n_past, n), budget * (1 + 1e-9));
    ASSERT_TRUE(n == n_max || cost.Of(n_past, n + 1) > budget * (1 - 1e-9));
  }
}

// A machine where a step takes a fixed time and so much per token, 3 times as much at a position of 100,000.
TEST(StepPacer, StepsComeToTakeTheBudgetAndNeverMuchMore) {
  const RowCost cost{2e-5};
  for (const double ms_per_token : {0.05, 0.5, 5.0}) {
    for (const double fixed_ms : {0.0, 5.0, 60.0}) {
      StepPacer pacer(absl::Milliseconds(100));
      double last_ms = 0;
      for (int64_t n_past = 0, step = 0; n_past < 100000 && step < 3000; ++step) {
        const int64_t n = std::max<int64_t>(1, cost.TokensWithin(pacer.CostMax(1.0), n_past, 8192));
        last_ms = fixed_ms + ms_per_token * cost.Of(n_past, n);
        if (step % 50 == 7) last_ms *= 5;  // something else took the machine
        pacer.Observe(cost.Of(n_past, n), absl::Milliseconds(last_ms));
        ASSERT_TRUE(step % 50 == 7 || last_ms <= 180.0) << ms_per_token << " " << fixed_ms << " step " << step;
        n_past += n;
        if (step > 20 && n < 8192 && step % 50 > 15) {
          EXPECT_GE(last_ms, 70.0) << ms_per_token << " " << fixed_ms << " step " << step;
        }
      }
    }
  }
}

TEST(Scheduling, APromptBesideStreamsIsReadInPiecesOfTheTimeBudget) {
  auto group = MakeFakeGroup(1, 16, 512);
  EngineConfig config = EndlessConfig();
  config.n_context_max = 1 << 17;
  config.step_token_budget = 4096;
  config.step_time_budget = absl::Milliseconds(100);
  config.checkpoint_interval_tokens = 8192;
  Harness harness(config, *group, kHasher);
  std::shared_ptr<RecordingSink> giant;
  harness.Then([&] {
    for (uint64_t i = 0; i < 8; ++i) harness.Submit(Request(Prompt(20, i), 200));
  });
  std::vector<double> beside_ms;
  std::vector<double> alone_ms;
  group->keep_plans = false;
  int64_t n_plans = 0;
  group->on_plan = [&](const StepPlan& plan) {
    double ms = plan.rows.empty() ? 0.0 : 10.0;
    size_t n_decode = 0;
    bool has_prefill = false;
    for (const auto& row : plan.rows) {
      ms += 0.4 * static_cast<double>(row.tokens.size());
      row.tokens.size() == 1 ? ++n_decode : has_prefill = true;
    }
    harness.clock().Advance(absl::Milliseconds(ms));
    if (++n_plans == 10) giant = harness.Submit(Request(Prompt(100000, 99), 1));
    if (giant != nullptr && has_prefill) (n_decode > 0 ? beside_ms : alone_ms).push_back(ms);
  };
  ASSERT_TRUE(harness.Run().ok());
  ASSERT_TRUE(giant->finished.has_value());
  ASSERT_GT(beside_ms.size(), 100U);
  std::sort(beside_ms.begin(), beside_ms.end());
  EXPECT_LE(beside_ms.back(), 2 * 100.0);
  EXPECT_GE(beside_ms[beside_ms.size() / 2], 70.0) << "the budget is not used";
  // Nobody else is there once the streams have ended.
  ASSERT_FALSE(alone_ms.empty());
  EXPECT_GE(*std::max_element(alone_ms.begin(), alone_ms.end()), 300.0);
}

// ---- leaving

TEST(Scheduling, AnEndedSequenceCostsNoStepOfItsOwn) {
  auto group = MakeFakeGroup(1, 8, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    harness.Submit(Request(Prompt(20, 1), 300));  // goes on all the time
    for (uint64_t i = 0; i < 6; ++i) {
      SequenceRequest request = Request(Prompt(30, 2 + i), 200);  // ends early, on a token nobody foresees
      request.stop_token_ids = {ContinueWithoutEnd(Prompt(30, 2 + i), 10 + i).back()};
      sinks.push_back(harness.Submit(std::move(request)));
    }
  });
  std::vector<std::vector<uint32_t>> followed;
  std::vector<std::shared_ptr<RecordingSink>> follow_ups;
  ASSERT_TRUE(harness.Run().ok());
  for (const auto& sink : sinks) EXPECT_EQ(sink->finished->reason, FinishReason::kStop);
  size_t n_without_rows = 0;
  size_t n_end_exports = 0;
  for (size_t i = 0; i < group->plans.size(); ++i) {
    n_without_rows += group->plans[i].rows.empty() ? 1 : 0;
    n_end_exports += group->plans[i].export_states.size();
  }
  EXPECT_EQ(n_without_rows, 0U);
  EXPECT_GE(n_end_exports, 6U);
}

TEST(Scheduling, WhoContinuesOrAsksForWhatJustEndedFindsAllOfIt) {
  auto group = MakeFakeGroup(1, 8, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  const auto prompt = Prompt(300, 5);
  const auto output = ContinueWithoutEnd(prompt, 40);
  auto whole = Join(prompt, output);
  std::shared_ptr<RecordingSink> first;
  std::shared_ptr<RecordingSink> next;
  int64_t n_probed = 0;
  size_t n_exported = 0;
  harness.Then([&] {
    harness.Submit(Request(Prompt(20, 1), 300));  // keeps the engine busy
    SequenceRequest request = Request(prompt, 200);
    request.stop_token_ids = {output.back()};
    first = harness.Submit(std::move(request));
    first->on_token = [&](const RecordingSink& sink) {
      if (sink.sampled.back().token != output.back()) return;
      // Posted before Finished even, so handled between the step that ended it and the next.
      whole = Join(prompt, sink.tokens());
      next = harness.Submit(Request(Join(whole, Prompt(3, 9)), 5));
      harness.Probe(Join(whole, {7}), [&](int64_t n) { n_probed = n; });
      harness.Export(whole, [&](absl::StatusOr<std::vector<KvObject>> objects) {
        ASSERT_TRUE(objects.ok());
        n_exported = objects->size();
      });
    };
  });
  ASSERT_TRUE(harness.Run().ok());
  const auto n_past = static_cast<uint32_t>(whole.size() - 1);
  EXPECT_EQ(next->started->n_cached_local, n_past);
  EXPECT_EQ(next->tokens(), ContinueWithoutEnd(Join(whole, Prompt(3, 9)), 5));
  EXPECT_EQ(n_probed, n_past);
  EXPECT_EQ(n_exported, n_past / 256 + 2);  // blocks, tail and state
}

TEST(Scheduling, CancellingWhatIsBeingMovedOutFreesIt) {
  auto group = MakeFakeGroup(1, 2, 64);
  EngineConfig config = EndlessConfig();
  config.n_sequences_max = 2;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> heavy;
  harness.Then([&] {
    for (uint64_t i = 0; i < 2; ++i) {
      SequenceRequest request = RequestOf("heavy", Prompt(30, i), 100);
      request.id = i + 1;
      heavy.push_back(harness.Submit(std::move(request)));
    }
  });
  group->on_plan = [&](const StepPlan&) {
    if (group->plans.size() == 10) harness.Submit(RequestOf("light", Prompt(30, 9), 3));
    if (group->plans.size() >= 11 && group->plans.size() < 14) harness.Cancel(2);
  };
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(heavy[1]->finished->reason, FinishReason::kCancelled);
  EXPECT_EQ(heavy[1]->n_after_end, 0);
  EXPECT_EQ(harness.load.n_blocks_free, 64U);
  EXPECT_EQ(harness.load.n_running, 0U);
}

// ---- restoring

// What an engine that has computed these tokens exports of them.
std::vector<KvObject> Exported(const std::vector<uint32_t>& tokens) {
  auto group = MakeFakeGroup(1, 1, 16);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::vector<KvObject> out;
  harness.Then([&] { harness.Submit(Request(tokens, 1)); });
  harness.Then([&] {
    harness.Export(tokens, [&](absl::StatusOr<std::vector<KvObject>> objects) {
      ASSERT_TRUE(objects.ok()) << objects.status();
      out = *std::move(objects);
    });
  });
  EXPECT_TRUE(harness.Run().ok());
  return out;
}

// Two shards, in order of arrival: a twin that restores, a growing one that is to be preempted and the other twin on
// the first, a growing one on the second. The other twin's feed ends early, when nothing is free in place of the block
// that it gives back, and in that very step the last one needs its next block.
TEST(Scheduling, WhoStandsBehindAPreemptedOneGetsItsBlocks) {
  auto group = MakeFakeGroup(2, 8, 8);
  EngineConfig config = EndlessConfig();
  config.admission_headroom_tokens = 0;
  Harness harness(config, *group, kHasher);
  const auto tokens = Prompt(600, 1);
  const std::vector<uint32_t> prompts[] = {Join(tokens, Prompt(5, 2)), Prompt(10, 3), Prompt(300, 4), Prompt(10, 5),
                                           Join(tokens, Prompt(5, 6)), Prompt(20, 7)};
  const uint32_t n_output[] = {20, 5, 600, 5, 20, 600};
  const FakeFeed early(Exported({tokens.begin(), tokens.begin() + 300}));
  const auto first = std::make_shared<FakeFeed>(Exported(tokens));
  const auto other = std::make_shared<FakeFeed>(Exported(tokens));
  other->end = early.end;
  first->withholds_end = other->withholds_end = true;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (size_t i = 0; i < 6; ++i) {  // every other one on the second shard
      SequenceRequest request = Request(prompts[i], n_output[i]);
      if (i == 0) request.feed = first;
      if (i == 4) request.feed = other;
      sinks.push_back(harness.Submit(std::move(request)));
    }
  });
  other->on_take = [&] { other->withholds_end = 20 + sinks[5]->sampled.size() < 512; };
  group->on_plan = [&](const StepPlan&) { first->withholds_end = harness.load.n_preempted == 0; };
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(harness.load.n_preempted, 1U);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(sinks[i]->tokens(), ContinueWithoutEnd(prompts[i], n_output[i])) << i;
  EXPECT_EQ(sinks[4]->started->n_cached_store, 300U);
  EXPECT_EQ(harness.load.n_blocks_free, 16U);
}

// ---- drafts

TEST(PromptLookup, GuessesWhatFollowedTheLastTimeAndOnlyThat) {
  PromptLookup lookup;
  std::vector<uint32_t> tokens = {1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 7};
  std::vector<uint32_t> guess;
  lookup.Propose(tokens, 4, guess);
  EXPECT_TRUE(guess.empty());  // 9 8 7 was not there before
  for (const uint32_t token : {1, 2, 3}) tokens.push_back(token);
  lookup.Propose(tokens, 4, guess);
  EXPECT_EQ(guess, (std::vector<uint32_t>{9, 8, 7, 1}));  // the latest place, not the first
  guess.clear();
  tokens.push_back(4);
  lookup.Propose(tokens, 2, guess);
  EXPECT_EQ(guess, (std::vector<uint32_t>{5, 1}));
  // A long beginning is read in over several calls.
  PromptLookup late;
  std::vector<uint32_t> text = Prompt(100000, 4);
  for (const uint32_t token : {1000, 1001, 1002, 1003, 1000, 1001, 1002}) text.push_back(token);
  guess.clear();
  size_t n_calls = 0;
  while (guess.empty() && n_calls < 1000) {
    late.Propose(text, 1, guess);
    ++n_calls;
  }
  EXPECT_EQ(guess, (std::vector<uint32_t>{1003}));
  EXPECT_GE(n_calls, 100000 / PromptLookup::kIndexedPerCall);
}

TEST(DraftPolicy, GuessesAreCheckedWhenARowIsCheapAndNotWhenItIsDear) {
  for (const double row_share : {0.05, 0.3, 0.9}) {
    DraftPolicy policy;
    for (int i = 0; i < 300; ++i) {
      const size_t n_rows = 1 + static_cast<size_t>(i % 4);
      policy.ObserveDecode(n_rows, absl::Seconds(0.01 * (1 - row_share + row_share * static_cast<double>(n_rows))));
    }
    EXPECT_NEAR(policy.ChanceWanted(1), row_share, 0.02);
    EXPECT_GT(policy.ChanceWanted(16), policy.ChanceWanted(1));
  }
  DraftRecord record;
  EXPECT_EQ(DraftPolicy::LengthWorthChecking(record, 8, {}, 0.3), 3U);  // 0.7^3 > 0.3 > 0.7^4
  const float sure[] = {9, 9, 9, -9, 9};
  EXPECT_EQ(DraftPolicy::LengthWorthChecking(record, 5, sure, 0.3), 3U);
}

TEST(DraftPolicy, ASourceThatDoesNotPayRestsLongerAndLonger) {
  DraftPolicy policy;
  DraftRecord record;
  int64_t n_tried = 0;
  for (int64_t n = 0; n < 10000; ++n) {
    if (!DraftPolicy::IsWorthTrying(record, 0.4, n)) continue;
    ++n_tried;
    policy.ObserveDrafts(DraftSource::kLookup, record, 2, 0, 0.4, n);
  }
  EXPECT_GT(n_tried, 10);
  EXPECT_LT(n_tried, 150);
  for (int64_t n = 10000; n < 20000; ++n) {
    if (DraftPolicy::IsWorthTrying(record, 0.4, n)) policy.ObserveDrafts(DraftSource::kLookup, record, 2, 2, 0.4, n);
  }
  EXPECT_GT(policy.counts(DraftSource::kLookup).n_accepted, 10000U);
}

struct DraftRun {
  std::vector<std::vector<uint32_t>> outputs;
  size_t n_steps = 0;
  DraftCounts lookup;
  DraftCounts model;
  uint32_t n_reported = 0;  // accepted guesses that Finished events tell of
};

DraftRun RunWithDrafts(bool by_lookup, bool by_model, double temperature, uint32_t n_blocks) {
  auto group = MakeFakeGroup(2, 16, n_blocks, 8, 5);
  group->keep_plans = false;
  EngineConfig config = EndlessConfig();
  config.n_sequences_max = 32;
  config.draft_lookup = by_lookup;
  config.draft_model = by_model;
  config.admission_headroom_tokens = 50;
  config.export_cache_objects = true;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (uint64_t i = 0; i < 32; ++i) {
      SequenceRequest request = Request(Join(Prompt(40 + 11 * i, i), Prompt(40 + 11 * i, i)), 260);
      request.sampling = {.temperature = temperature,
                          .seed = i,
                          .presence_penalty = i % 2 == 0 ? 0.0 : 0.2,
                          .frequency_penalty = i % 2 == 0 ? 0.0 : 0.1};
      if (i % 4 == 0) request.stop_token_ids = {17};
      sinks.push_back(harness.Submit(std::move(request)));
    }
  });
  DraftRun run;
  group->on_plan = [&](const StepPlan& plan) {
    ++run.n_steps;
    size_t n_tokens = 0;
    for (const auto& row : plan.rows) n_tokens += row.tokens.size();
    harness.clock().Advance(absl::Microseconds(10000 + 5 * n_tokens));  // rows are cheap
  };
  EXPECT_TRUE(harness.Run().ok());
  for (const auto& sink : sinks) {
    run.outputs.push_back(sink->tokens());
    EXPECT_TRUE(sink->finished.has_value());
    EXPECT_EQ(sink->n_after_end, 0);
    run.n_reported += sink->finished->n_drafts_accepted;
  }
  EXPECT_EQ(harness.load.n_blocks_free, 2 * n_blocks);
  run.lookup = harness.load.drafts_of_lookup;
  run.model = harness.load.drafts_of_model;
  return run;
}

TEST(Drafts, OutputIsTheSameWithAndWithoutAlsoWhenSequencesAreMovedOut) {
  for (const double temperature : {0.0, 1.0}) {
    const DraftRun plain = RunWithDrafts(false, false, temperature, 256);
    EXPECT_EQ(plain.model.n_accepted + plain.lookup.n_accepted, 0U);
    for (const uint32_t n_blocks : {256, 14}) {
      const DraftRun drafted = RunWithDrafts(true, true, temperature, n_blocks);
      EXPECT_EQ(drafted.outputs, plain.outputs) << temperature << " " << n_blocks;
      EXPECT_GT(drafted.model.n_accepted, temperature == 0.0 ? 1200U : 0U);
      EXPECT_GT(drafted.model.n_rejected, 10U);
      EXPECT_EQ(drafted.n_reported, drafted.model.n_accepted + drafted.lookup.n_accepted);
      EXPECT_TRUE(temperature > 0.0 || n_blocks != 256 || drafted.n_steps < plain.n_steps)
          << drafted.n_steps << " of " << plain.n_steps << ", " << drafted.model.n_accepted;
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
