// Who runs next and how much of a step he gets: shares of tenants and tiers, time budgets, preemption, leaving.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fair_share.h"
#include "fake_model.h"
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

EngineConfig EndlessConfig() {
  EngineConfig config = SmallConfig();
  config.eos_token_id = 5000;
  return config;
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
  EXPECT_EQ(light->tokens(), FakeModel::Continue(Prompt(50, 77), 5, 5000));
  for (uint64_t i = 0; i < 40; ++i) {
    EXPECT_EQ(heavy[i]->tokens(), FakeModel::Continue(Prompt(100, i), 200, 5000)) << i;
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
      request.stop_token_ids = {FakeModel::Continue(Prompt(30, 2 + i), 10 + i, 5000).back()};
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
  const auto output = FakeModel::Continue(prompt, 40, 5000);
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
      harness.Export(whole, [&](absl::StatusOr<std::vector<ParkedObject>> objects) {
        ASSERT_TRUE(objects.ok());
        n_exported = objects->size();
      });
    };
  });
  ASSERT_TRUE(harness.Run().ok());
  const auto n_past = static_cast<uint32_t>(whole.size() - 1);
  EXPECT_EQ(next->started->n_cached_local, n_past);
  EXPECT_EQ(next->tokens(), FakeModel::Continue(Join(whole, Prompt(3, 9)), 5, 5000));
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

}  // namespace
}  // namespace longshelf::engine
