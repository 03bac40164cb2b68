// Streams that wait for a worker: who is next, who is told at once that it takes too long, and what waiting costs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dispatcher_fixture.h"
#include "router/api_error.h"

namespace longshelf::router {
namespace {

using testing::DispatcherTest;
using testing::FakeCall;
using testing::FakeLink;
using testing::Recorder;

// Workers that take a fixed time for every stream they run, in slots; the clock goes in steps of a millisecond.
class QueueTest : public DispatcherTest {
 protected:
  static constexpr absl::Duration kStep = absl::Milliseconds(5);

  struct Asked {
    std::string tenant;
    absl::Time at;
    absl::Status refused;
    Recorder recorder;
    std::optional<absl::Time> first_token_at;
  };

  void Start(size_t n_workers, DispatcherConfig config = {}, uint32_t n_slots = 16) {
    Make(n_workers, config);
    n_slots_ = n_slots;
    for (size_t i = 0; i < n_workers; ++i) Up(i);
  }
  void Up(size_t worker) {
    ASSERT_TRUE(dispatcher_->OnWorkerUp(worker, Info()));
    Report(worker, 0, n_slots_);
  }
  Asked& Ask(const std::string& tenant, ServiceTier tier = ServiceTier::kDefault, size_t n_prompt = 100) {
    Asked& asked = *asked_.emplace_back(std::make_unique<Asked>());
    asked.tenant = tenant;
    asked.at = clock_.Now();
    StreamSpec spec;
    spec.request_id = std::to_string(asked_.size());
    spec.prompt = std::make_shared<const std::vector<uint32_t>>(n_prompt, static_cast<uint32_t>(asked_.size() % 900));
    spec.max_tokens = 20;
    spec.tenant = tenant;
    spec.tier = tier;
    auto stream = dispatcher_->Generate(std::move(spec), asked.recorder);
    asked.refused = stream.status();
    if (stream.ok()) asked.recorder.stream = *std::move(stream);
    by_id_[std::to_string(asked_.size())] = &asked;
    return asked;
  }
  // Time passes; every stream gets its first token after kServiceTime in a slot of its worker, and ends.
  void Run(
      absl::Duration time, const std::function<void()>& at_every_step = [] {}) {
    const absl::Time end = clock_.Now() + time;
    while (clock_.Now() < end) {
      at_every_step();
      for (size_t w = 0; w < links_.size(); ++w) RunWorker(w);
      clock_.Advance(kStep);
      dispatcher_->Tick();
    }
  }
  void RunWorker(size_t worker) {
    const std::vector<FakeCall*> calls = links_[worker]->calls;
    size_t n_in_slots = 0;
    for (FakeCall* call : calls) {
      if (n_in_slots++ == n_slots_) break;
      absl::Duration& served = served_[call->request.request_id];
      served += kStep;
      if (served < service_time_) continue;
      Asked& asked = *by_id_.at(call->request.request_id);
      asked.first_token_at = clock_.Now();
      ++n_served_[asked.tenant];
      call->Send(Token(0, 10));
      call->Send(WorkerFinished{FinishReason::kStop, {}});
    }
  }
  static bool IsShed(const absl::Status& status) {
    const ApiError error = FromStatus(status);
    return error.http_status == 503 && error.code == "overloaded" && error.retry_after_s > 0;
  }
  // Of those that were asked at or after `since`: with their first token within two seconds.
  size_t n_in_time(absl::Time since) const {
    return static_cast<size_t>(std::count_if(asked_.begin(), asked_.end(), [&](const auto& asked) {
      return asked->at >= since && asked->first_token_at && *asked->first_token_at - asked->at <= absl::Seconds(2);
    }));
  }

  uint32_t n_slots_ = 16;
  absl::Duration service_time_ = absl::Milliseconds(320);  // 50 a second in 16 slots
  std::deque<std::unique_ptr<Asked>> asked_;
  std::map<std::string, Asked*> by_id_;
  std::map<std::string, absl::Duration> served_;
  std::map<std::string, int> n_served_;
};

TEST_F(QueueTest, TenfoldLoadIsServedAsFastAsTheWorkerCanAndTheRestIsRefusedAtOnce) {
  Start(1);
  const absl::Time begin = clock_.Now();
  Run(absl::Seconds(20), [&] {
    for (int i = 0; i < 2; ++i) Ask("t");  // 400 a second, and some more below
    if ((clock_.Now() - begin) % absl::Milliseconds(10) == absl::ZeroDuration()) Ask("t");
  });
  // 50 a second for 20 s is all there is.
  EXPECT_GE(n_in_time(begin), 900u);
  size_t n_refused = 0;
  size_t n_late = 0;
  std::map<int, int> retry_after;
  for (const auto& asked : asked_) {
    if (!asked->refused.ok()) {
      ASSERT_TRUE(IsShed(asked->refused)) << asked->refused;
      ++n_refused;
      ++retry_after[FromStatus(asked->refused).retry_after_s];
    } else if (asked->recorder.failed) {
      ASSERT_TRUE(IsShed(*asked->recorder.failed));
      ++n_late;
    }
  }
  EXPECT_GT(n_refused, 8000u);
  EXPECT_LT(n_late, 200u) << "only before it was known how fast the worker is";
  EXPECT_GE(retry_after.size(), 2u) << "spread";
  // And over.
  const absl::Time calm = clock_.Now() + absl::Seconds(5);
  Run(absl::Seconds(5));
  EXPECT_EQ(dispatcher_->n_streams(), 0u);
  Asked& after = Ask("t");
  Run(absl::Seconds(1));
  EXPECT_EQ(after.at, calm);
  EXPECT_LE(*after.first_token_at - after.at, service_time_);
}

TEST_F(QueueTest, TwoTenantsGetTheSameHoweverMuchOneOfThemAsks) {
  Start(2);
  int step = 0;
  Run(absl::Seconds(5), [&] {
    for (int i = 0; i < 10; ++i) Ask("loud");
    if (step++ % 2 == 0) Ask("quiet");  // 100 a second, of 100 that there are, and 2000 of the other
  });
  n_served_.clear();
  Run(absl::Seconds(20), [&] {
    for (int i = 0; i < 10; ++i) Ask("loud");
    if (step++ % 2 == 0) Ask("quiet");
  });
  const double all = n_served_["loud"] + n_served_["quiet"];
  EXPECT_GE(all, 1900);
  EXPECT_NEAR(n_served_["loud"] / all, 0.5, 0.05);
}

TEST_F(QueueTest, WhoAsksLittleHardlyWaitsBesideWhoAsksALot) {
  Start(1);
  int step = 0;
  std::vector<Asked*> quiet;
  Run(absl::Seconds(10), [&] {
    for (int i = 0; i < 3; ++i) Ask("loud");
    if (step++ % 200 == 199) quiet.push_back(&Ask("quiet"));
  });
  ASSERT_EQ(quiet.size(), 10u);
  for (const Asked* asked : quiet) {
    ASSERT_TRUE(asked->refused.ok());
    // Without preemption, which the engine adds, it is the next to get a slot.
    ASSERT_TRUE(asked->first_token_at.has_value() || asked == quiet.back());
    if (!asked->first_token_at.has_value()) continue;
    EXPECT_LE(*asked->first_token_at - asked->at, 2.5 * service_time_);
  }
}

TEST_F(QueueTest, ALowTierGetsItsShareBesideAFloodOfAHighOne) {
  Start(2);
  Run(absl::Seconds(30), [&] {
    for (int i = 0; i < 4; ++i) Ask("t high", ServiceTier::kPriority);
    Ask("t low", ServiceTier::kFlex);
  });
  const double all = n_served_["t high"] + n_served_["t low"];
  EXPECT_NEAR(n_served_["t low"] / all, 1.0 / 17, 0.03);
}

TEST_F(QueueTest, AShortPromptDoesNotWaitBehindLongOnesOfItsOwnTenant) {
  Start(1);
  DispatcherConfig defaults;
  for (int i = 0; i < 60; ++i) Ask("t", ServiceTier::kDefault, 3000);
  Run(absl::Milliseconds(50));
  Asked& chat = Ask("t", ServiceTier::kDefault, 50);
  ASSERT_TRUE(chat.refused.ok());
  Run(absl::Seconds(1));
  ASSERT_TRUE(chat.first_token_at.has_value());
  EXPECT_LE(*chat.first_token_at - chat.at, 2.5 * service_time_) << "60 need 1.2 s";
}

TEST_F(QueueTest, AWorkerThatComesUpLateTakesFromTheBacklog) {
  Make(2);
  n_slots_ = 16;
  Up(0);
  for (int i = 0; i < 60; ++i) Ask("t");
  ASSERT_LT(links_[0]->calls.size(), 20u);
  const size_t n_waiting = dispatcher_->n_queued();
  ASSERT_GT(n_waiting, 40u);
  Up(1);
  EXPECT_EQ(links_[1]->calls.size(), 18u) << "its slots and a few more";
  EXPECT_EQ(dispatcher_->n_queued(), n_waiting - 18);
}

TEST_F(QueueTest, ARefusalIsNotTriedAgainBeforeTheWorkerSaysSomething) {
  Start(1);
  size_t n_attempts = 0;
  for (int i = 0; i < 5; ++i) Ask("t");
  const auto refuse_all = [&] {
    while (!links_[0]->calls.empty()) {
      ++n_attempts;
      links_[0]->last().Close(absl::ResourceExhaustedError("full"));
    }
  };
  refuse_all();
  EXPECT_EQ(n_attempts, 5u);
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(absl::Milliseconds(50));
    dispatcher_->Tick();
    refuse_all();
  }
  EXPECT_EQ(n_attempts, 5u) << "not in five seconds of ticks";
  EXPECT_EQ(dispatcher_->n_queued(), 5u);
  Report(0);
  ASSERT_EQ(links_[0]->calls.size(), 5u);
  // In the order in which they came, and not as a fault: no retry was counted.
  EXPECT_EQ(links_[0]->calls[0]->request.request_id, "1");
  EXPECT_NE(registry_.Serialize().find("longshelf_router_retries_total 0"), std::string::npos);
  EXPECT_NE(registry_.Serialize().find("longshelf_router_worker_refusals_total 5"), std::string::npos);
}

TEST_F(QueueTest, WhatAnotherRouterHasThereCounts) {
  Start(1);
  for (int i = 0; i < 3; ++i) Report(0, /*n_of_others=*/12);
  for (int i = 0; i < 20; ++i) Ask("t");
  EXPECT_EQ(links_[0]->calls.size(), 6u) << "16 slots and two";
  for (int i = 0; i < 3; ++i) Report(0, /*n_of_others=*/2);
  EXPECT_EQ(links_[0]->calls.size(), 16u);
}

TEST_F(QueueTest, APumpCostsNoMoreThanWhatItPlaces) {
  Start(4);
  for (int i = 0; i < 600; ++i) Ask("t" + std::to_string(i % 10));
  ASSERT_GT(dispatcher_->n_queued(), 500u);
  const uint64_t before = dispatcher_->n_tries();
  for (int i = 0; i < 100; ++i) {
    for (size_t w = 0; w < 4; ++w) Report(w);
    dispatcher_->Tick();
  }
  EXPECT_EQ(dispatcher_->n_tries(), before) << "nobody has room: nobody is tried";
  links_[0]->last().Send(Token(0, 1));
  links_[0]->last().Send(WorkerFinished{});
  EXPECT_LE(dispatcher_->n_tries() - before, 3u) << "a place for one";
}

TEST_F(QueueTest, PromptsThatAWorkerHasToReadAreBoundedInTime) {
  Start(1);
  Report(0, 0, 16, /*tokens_per_second=*/1000);
  for (int i = 0; i < 10; ++i) Ask("t", ServiceTier::kDefault, 400);
  EXPECT_EQ(links_[0]->calls.size(), 2u) << "half a second of prompts is before the next";
  links_[0]->calls[0]->Send(StreamStarted{400, 300, 0, ""});
  links_[0]->calls[1]->Send(StreamStarted{400, 300, 0, ""});
  Report(0, 0, 16, 1000);
  EXPECT_EQ(links_[0]->calls.size(), 3u);
}

TEST_F(QueueTest, ALongPromptSharesTheWorkerAndLeavesSlotsToOthers) {
  Start(1);
  Report(0, 0, 16, /*tokens_per_second=*/1000);
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(Ask("t", ServiceTier::kDefault, 3000).refused.ok());
  EXPECT_EQ(links_[0]->calls.size(), 12u);
  EXPECT_EQ(dispatcher_->n_queued(), 4u);
  // It is patient: those who send it know that it takes long.
  clock_.Advance(absl::Seconds(20));
  Report(0, 0, 16, 1000);
  dispatcher_->Tick();
  EXPECT_EQ(dispatcher_->n_queued(), 4u);
}

TEST_F(QueueTest, AsManyMayWaitAsRunHoweverLongTheyTake) {
  Start(1);
  service_time_ = absl::Seconds(30);
  // Their clients ask again when they have their answers: twice as many as there are slots.
  for (int i = 0; i < 32; ++i) Ask("t");
  size_t n_asked = 32;
  Run(absl::Seconds(200), [&] {
    const auto n_served = static_cast<size_t>(n_served_["t"]);
    for (; n_asked < n_served + 32; ++n_asked) Ask("t");
  });
  for (const auto& asked : asked_) {
    EXPECT_TRUE(asked->refused.ok()) << asked->refused;
    EXPECT_FALSE(asked->recorder.failed.has_value()) << asked->at << " " << asked->recorder.failed->ToString();
  }
  EXPECT_GE(n_served_["t"], 16 * 6);
}

TEST_F(QueueTest, NobodyWaitsForeverForWorkersThatRefuseOrAreGone) {
  Start(1);
  Asked& refused = Ask("t");
  links_[0]->last().Close(absl::ResourceExhaustedError("full"));
  clock_.Advance(absl::Seconds(11));
  dispatcher_->Tick();
  ASSERT_TRUE(refused.recorder.failed.has_value());
  EXPECT_TRUE(IsShed(*refused.recorder.failed));
  dispatcher_->OnWorkerDown(0, absl::UnavailableError("gone"));
  Asked& lost = Ask("t");
  clock_.Advance(absl::Seconds(11));
  dispatcher_->Tick();
  ASSERT_TRUE(lost.recorder.failed.has_value());
  EXPECT_EQ(FromStatus(*lost.recorder.failed).code, "no_workers");
}

// A maker whose keys come when the test says so.
class SlowKeyMaker final : public KeyMaker {
 public:
  bool Make(Order order, std::function<void(PromptKeys)> done) override {
    if (is_full) return false;
    asked.emplace_back(std::move(order), std::move(done));
    return true;
  }
  void Answer() {
    auto [order, done] = std::move(asked.front());
    asked.pop_front();
    done(order.Make());
  }
  bool is_full = false;
  std::deque<std::pair<Order, std::function<void(PromptKeys)>>> asked;
};

TEST_F(QueueTest, KeysOfPromptsThatCameBeforeTheFirstWorkerAreMadeElsewhereAFewAtATime) {
  Make(1);
  SlowKeyMaker maker;
  dispatcher_->set_key_maker(&maker);
  for (int i = 0; i < 1000; ++i) Ask("t");
  EXPECT_TRUE(maker.asked.empty()) << "of which model?";
  maker.is_full = true;
  Up(0);
  EXPECT_TRUE(links_[0]->calls.empty());
  maker.is_full = false;
  dispatcher_->Tick();
  EXPECT_EQ(maker.asked.size(), 8u);
  EXPECT_TRUE(links_[0]->calls.empty()) << "a stream waits until its keys are there";
  asked_[0]->recorder.stream.reset();  // a client that leaves meanwhile
  for (int i = 0; i < 3; ++i) maker.Answer();
  ASSERT_EQ(links_[0]->calls.size(), 2u);
  EXPECT_EQ(links_[0]->calls[0]->request.request_id, "2");
  EXPECT_EQ(maker.asked.size(), 8u);
  // Keys that come when all is over find nobody.
  for (const auto& asked : asked_) asked->recorder.stream.reset();
  dispatcher_.reset();
  while (!maker.asked.empty()) maker.Answer();
}

TEST_F(QueueTest, AWorkerThatFailsWhatItIsGivenGetsLittleUntilItBeginsSomething) {
  DispatcherConfig config;
  config.n_retries_max = 0;
  Start(2, config);
  dispatcher_->OnWorkerDown(1, absl::CancelledError("drained"));
  for (int i = 0; i < 5; ++i) {
    Ask("t");
    ASSERT_EQ(links_[0]->calls.size(), 1u) << i;
    links_[0]->last().Close(absl::InternalError("broken"));
  }
  // The last worker is never unusable for long.
  Ask("t");
  EXPECT_TRUE(links_[0]->calls.empty());
  clock_.Advance(absl::Milliseconds(300));
  dispatcher_->Tick();
  ASSERT_EQ(links_[0]->calls.size(), 1u);
  for (int i = 0; i < 10; ++i) Ask("t");
  EXPECT_EQ(links_[0]->calls.size(), 1u) << "one at a time tries it";
  links_[0]->last().Close(absl::InternalError("broken still"));
  // Beside another one it rests for longer.
  Up(1);
  EXPECT_EQ(links_[1]->calls.size(), 10u);
  clock_.Advance(absl::Milliseconds(900));
  dispatcher_->Tick();
  Ask("t");
  EXPECT_TRUE(links_[0]->calls.empty());
  clock_.Advance(absl::Seconds(20));
  Ask("t");
  ASSERT_EQ(links_[0]->calls.size(), 1u);
  links_[0]->last().Send(StreamStarted{100, 0, 0, ""});
  for (int i = 0; i < 20; ++i) Ask("t");
  EXPECT_GT(links_[0]->calls.size(), 10u);
  EXPECT_NE(registry_.Serialize().find("longshelf_router_breakers_opened_total 1"), std::string::npos);
}

TEST_F(QueueTest, WhatAStreamWouldHaveCostIsForgottenWhenItGoes) {
  Start(2);
  Asked& large = Ask("t", ServiceTier::kDefault, 3000);
  ASSERT_EQ(links_[0]->calls.size(), 1u);
  large.recorder.stream.reset();
  Ask("t");
  ASSERT_EQ(links_[1]->calls.size(), 1u) << "its turn";
  Ask("t");
  EXPECT_EQ(links_[0]->calls.size(), 1u) << "which has nothing to do";
}

TEST_F(QueueTest, WhatWasRefusedIsNotCountedAsServed) {
  Start(1, {}, /*n_slots=*/1);
  Ask("a", ServiceTier::kDefault, 900);
  links_[0]->last().Close(absl::ResourceExhaustedError("full"));
  for (int i = 0; i < 3; ++i) Ask("b");
  ASSERT_TRUE(links_[0]->calls.empty());
  Report(0, 0, 1);
  ASSERT_FALSE(links_[0]->calls.empty());
  EXPECT_EQ(links_[0]->calls[0]->request.request_id, "1");
}

TEST_F(QueueTest, OutputIsCountedAsItComes) {
  Start(1, {}, /*n_slots=*/1);
  for (int i = 0; i < 20; ++i) {
    Ask("talks", ServiceTier::kDefault, 10);
    Ask("reads", ServiceTier::kDefault, 10);
  }
  for (int i = 0; i < 20; ++i) {
    ASSERT_FALSE(links_[0]->calls.empty());
    FakeCall& call = *links_[0]->calls.front();
    const std::string tenant = call.request.tenant;
    ++n_served_[tenant];
    const uint32_t n_tokens = tenant == "talks" ? 20 : 1;
    for (uint32_t token = 0; token < n_tokens; ++token) call.Send(Token(token, 10));
    call.Send(WorkerFinished{FinishReason::kStop, {}});
  }
  // 30 tokens for each of one, 11 for each of the other.
  EXPECT_LE(n_served_["talks"], 7);
  EXPECT_GE(n_served_["talks"], 4);
}

TEST_F(QueueTest, ALongPrefixIsWorthWaitingForItsWorkerAWhile) {
  Make(2);
  WorkerInfo info = Info();
  info.n_context_max = 100'000;
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(dispatcher_->OnWorkerUp(i, info));
    Report(i);
  }
  const auto prompt = std::make_shared<const std::vector<uint32_t>>(30'000, 7);
  const PromptKeys keys = MakePromptKeys(Info().fingerprint, "", 256, *prompt);
  WorkerUpdate update;
  update.load.n_sequences_max = 16;
  update.load.n_running = 18;  // of other routers
  update.gained.push_back({keys.chain[100], keys.chain[100], 100 * 256});
  for (int i = 0; i < 3; ++i) dispatcher_->OnWorkerUpdate(0, update);
  const auto ask = [&](Recorder& recorder) {
    StreamSpec spec;
    spec.prompt = prompt;
    spec.max_tokens = 20;
    recorder.stream = *dispatcher_->Generate(std::move(spec), recorder);
  };
  Recorder waits;
  ask(waits);
  EXPECT_EQ(dispatcher_->n_queued(), 1u);
  for (int i = 0; i < 3; ++i) Report(0, 10);
  EXPECT_EQ(links_[0]->calls.size(), 1u);
  // Not for long.
  for (int i = 0; i < 3; ++i) Report(0, 18);
  Recorder leaves;
  ask(leaves);
  EXPECT_EQ(dispatcher_->n_queued(), 1u);
  clock_.Advance(absl::Milliseconds(600));
  dispatcher_->Tick();
  EXPECT_EQ(links_[1]->calls.size(), 1u);
}

// Routers know of each other only what their worker says.
TEST_F(QueueTest, TwoRoutersShareAWorkerByItsWord) {
  Start(1);
  FakeLink* own = links_[0];
  links_.clear();
  Metrics other_registry("router_test");
  RouterMetrics other_metrics(other_registry);
  std::vector<std::unique_ptr<WorkerLink>> owned;
  owned.push_back(std::make_unique<FakeLink>());
  auto* theirs = static_cast<FakeLink*>(owned[0].get());
  Dispatcher other({}, clock_, other_metrics, std::move(owned));
  ASSERT_TRUE(other.OnWorkerUp(0, Info()));
  std::deque<Recorder> recorders;
  const auto report = [&] {
    WorkerUpdate update;
    update.load.n_running = static_cast<uint32_t>(own->calls.size() + theirs->calls.size());
    update.load.n_sequences_max = 16;
    dispatcher_->OnWorkerUpdate(0, update);
    other.OnWorkerUpdate(0, update);
  };
  report();
  int n_own = 0;
  int n_theirs = 0;
  size_t most = 0;
  for (int step = 0; step < 400; ++step) {
    for (int i = 0; i < 2; ++i) {
      Ask("t");
      StreamSpec spec;
      spec.prompt = std::make_shared<const std::vector<uint32_t>>(100, 7);
      spec.max_tokens = 20;
      auto stream = other.Generate(std::move(spec), recorders.emplace_back());
      if (stream.ok()) recorders.back().stream = *std::move(stream);
    }
    // One in each step ends, of those whose turn it is.
    FakeLink& link = step % 16 < static_cast<int>(own->calls.size()) ? *own : *theirs;
    if (!link.calls.empty()) {
      FakeCall& call = *link.calls.front();
      (&link == own ? n_own : n_theirs) += 1;
      call.Send(Token(0, 10));
      call.Send(WorkerFinished{FinishReason::kStop, {}});
    }
    clock_.Advance(absl::Milliseconds(20));
    if (step % 5 == 4) report();
    dispatcher_->Tick();
    other.Tick();
    most = std::max(most, own->calls.size() + theirs->calls.size());
  }
  EXPECT_LE(most, 36u) << "at first neither knows of the other";
  EXPECT_LE(own->calls.size() + theirs->calls.size(), 20u) << "16 slots, and two more of each";
  EXPECT_GT(n_own, 50);
  EXPECT_GT(n_theirs, 50);
  for (Recorder& recorder : recorders) recorder.stream.reset();
}

TEST_F(QueueTest, ATenantsLimitsAreItsOwn) {
  Make(1);
  dispatcher_->set_tenant_limits([](const std::string& tenant) {
    return tenant == "small"   ? TenantLimits{.n_streams_max = 3, .n_tokens_queued_max = 0}
           : tenant == "wordy" ? TenantLimits{.n_streams_max = 0, .n_tokens_queued_max = 500}
                               : TenantLimits{};
  });
  Up(0);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Ask("small").refused.ok());
  const ApiError error = FromStatus(Ask("small").refused);
  EXPECT_EQ(error.http_status, 429);
  EXPECT_EQ(error.code, "rate_limit_exceeded");
  EXPECT_GT(error.retry_after_s, 0);
  for (int i = 0; i < 30; ++i) EXPECT_TRUE(Ask("large").refused.ok());
  // Two are placed beyond their worker's slots, as those of a tenant that has little. One that waits is within the
  // limit, one more is not.
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Ask("wordy", ServiceTier::kDefault, 300).refused.ok());
  EXPECT_EQ(FromStatus(Ask("wordy", ServiceTier::kDefault, 300).refused).http_status, 429);
  asked_.front()->recorder.stream.reset();
  EXPECT_TRUE(Ask("small").refused.ok());
}

}  // namespace
}  // namespace longshelf::router
