#include "router/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "dispatcher_fixture.h"
#include "router/api_error.h"

namespace longshelf::router {
namespace {

using testing::DispatcherTest;
using ::testing::ElementsAre;
using testing::FakeCall;
using testing::FakeLink;
using testing::Recorder;

TEST_F(DispatcherTest, RelaysAStreamOneEventAtATime) {
  Make(1);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  FakeCall& call = links_[0]->last();
  EXPECT_EQ(call.n_requested, 1);
  call.Send(StreamStarted{300, 256, 0, ""});
  EXPECT_EQ(call.n_requested, 2);
  call.Send(PrefillProgress{280, 300});
  EXPECT_THAT(r.progress, ElementsAre(280));
  call.Send(Token(0, 10));
  call.Send(Token(1, 11));
  call.Send(WorkerFinished{FinishReason::kLength, {}});
  EXPECT_THAT(r.tokens, ElementsAre(10, 11));
  EXPECT_EQ(r.finished, FinishReason::kLength);
  EXPECT_EQ(dispatcher_->n_streams(), 0u);
  EXPECT_TRUE(links_[0]->calls.empty());
}

TEST_F(DispatcherTest, LeavesItsWorkersForGood) {
  Make(1);
  AllUp();
  Recorder running;
  ASSERT_TRUE(Begin(running).ok());
  dispatcher_->Stop();
  EXPECT_EQ(dispatcher_->n_ready(), 0u);
  EXPECT_TRUE(dispatcher_->model().has_value());
  absl::Status parked;
  dispatcher_->Park(0, {}, [&](const absl::StatusOr<ParkedState>& state) { parked = state.status(); });
  EXPECT_TRUE(absl::IsUnavailable(parked)) << parked;
  Recorder late;
  EXPECT_TRUE(Begin(late).ok());
  running.stream.reset();
  EXPECT_EQ(dispatcher_->n_queued(), 1u);
  EXPECT_EQ(dispatcher_->n_streams(), 1u);
}

TEST_F(DispatcherTest, RetriesOnAnotherWorkerBeforeTheFirstToken) {
  Make(2);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  links_[0]->last().Close(absl::UnavailableError("gone"));
  ASSERT_EQ(links_[1]->calls.size(), 1u);
  EXPECT_GT(links_[1]->last().request.epoch, 1u);
  links_[1]->last().Send(Token(0, 10));
  links_[1]->last().Send(WorkerFinished{});
  EXPECT_THAT(r.tokens, ElementsAre(10));
  EXPECT_EQ(r.finished, FinishReason::kStop);
}

TEST_F(DispatcherTest, ResumesAfterTheCommittedTokensUnderAHigherEpoch) {
  Make(2);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  FakeCall& first = links_[0]->last();
  first.Send(Token(0, 10));
  first.Send(Token(1, 11));
  const uint32_t old_epoch = first.request.epoch;
  first.Close(absl::UnavailableError("killed"));
  ASSERT_EQ(links_[1]->calls.size(), 1u);
  FakeCall& second = links_[1]->last();
  EXPECT_THAT(second.request.committed, ElementsAre(10, 11));
  EXPECT_GT(second.request.epoch, old_epoch);
  EXPECT_EQ(second.request.max_tokens, 100u);
  second.SendAs(old_epoch, Token(2, 99));  // a zombie
  second.Send(Token(1, 98));               // a used index
  second.Send(Token(2, 12));
  second.Send(WorkerFinished{});
  EXPECT_THAT(r.tokens, ElementsAre(10, 11, 12));
  EXPECT_EQ(r.finished, FinishReason::kStop);
  EXPECT_FALSE(r.failed.has_value());
}

TEST_F(DispatcherTest, TellsOfEachPromptTokenOnceWhicheverWorkersTellOfIt) {
  Make(2);
  AllUp();
  Recorder r;
  ASSERT_TRUE(BeginWith(r, std::vector<uint32_t>(6, 7), 2, true).ok());
  const auto running = [&]() -> FakeCall& { return links_[0]->calls.empty() ? links_[1]->last() : links_[0]->last(); };
  EXPECT_TRUE(running().request.prompt_logprobs);
  EXPECT_EQ(running().request.n_prompt_scored, 1u);
  running().Send(StreamStarted{6, 0, 0, ""});
  running().Send(Scores(1, 3));
  running().SendAs(0, Scores(3, 6));  // of another epoch
  running().Close(absl::UnavailableError("gone"));
  EXPECT_EQ(running().request.n_prompt_scored, 3u);
  running().Send(Scores(1, 3));  // known all
  running().Send(Scores(2, 5));  // known in part
  EXPECT_THAT(r.prompt_logprobs, ElementsAre(1, 2, 3, 4));
  running().Send(Scores(5, 6));
  running().Send(Token(0, 10));
  running().Send(WorkerFinished{FinishReason::kLength, {}});
  EXPECT_THAT(r.prompt_logprobs, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(r.tokens, ElementsAre(10));
  EXPECT_EQ(r.finished, FinishReason::kLength);
}

TEST_F(DispatcherTest, PromptTokensThatAreLeftOutOrMadeUpAreTheWorkersFault) {
  const std::vector<decltype(WorkerEvent::body)> faults = {Scores(3, 4), Scores(2, 7), Token(0, 10),
                                                           WorkerFinished{FinishReason::kStop, {}}};
  for (const auto& fault : faults) {
    Make(2);
    AllUp();
    Recorder r;
    ASSERT_TRUE(BeginWith(r, std::vector<uint32_t>(6, 7), 2, true).ok());
    const bool is_first = !links_[0]->calls.empty();
    FakeLink& other = *links_[is_first ? 1 : 0];
    FakeCall& call = links_[is_first ? 0 : 1]->last();
    call.Send(Scores(1, 2));
    call.Send(fault);
    ASSERT_EQ(other.calls.size(), 1u) << fault.index();
    EXPECT_EQ(other.last().request.n_prompt_scored, 2u);
    EXPECT_THAT(r.prompt_logprobs, ElementsAre(1));
    r.stream.reset();
    links_.clear();
  }
}

TEST_F(DispatcherTest, WithoutOutputAStreamIsCompleteWhenAllPromptTokensAreTold) {
  Make(1);
  AllUp();
  Recorder r;
  ASSERT_TRUE(BeginWith(r, std::vector<uint32_t>(3, 7), 0, true).ok());
  links_[0]->last().Send(Scores(1, 3));
  links_[0]->last().Close(absl::UnavailableError("gone"));
  EXPECT_EQ(r.finished, FinishReason::kLength);
  EXPECT_THAT(r.prompt_logprobs, ElementsAre(1, 2));
}

TEST_F(DispatcherTest, ASkippedIndexIsTheWorkersFaultAndCostsNoToken) {
  Make(2);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  links_[0]->last().Send(Token(0, 10));
  links_[0]->last().Send(Token(2, 12));
  ASSERT_EQ(links_[1]->calls.size(), 1u);
  links_[1]->last().Send(Token(1, 11));
  EXPECT_THAT(r.tokens, ElementsAre(10, 11));
}

TEST_F(DispatcherTest, FinishesByItselfWhenTheWorkerDiedAfterTheLastToken) {
  Make(1);
  AllUp();
  Recorder stop;
  ASSERT_TRUE(Begin(stop).ok());
  links_[0]->last().Send(Token(0, 1));
  links_[0]->last().Close(absl::UnavailableError("killed"));
  EXPECT_EQ(stop.finished, FinishReason::kStop);
  Recorder length;
  ASSERT_TRUE(Begin(length, /*max_tokens=*/1).ok());
  links_[0]->last().Send(Token(0, 10));
  links_[0]->last().Close(absl::UnavailableError("killed"));
  EXPECT_EQ(length.finished, FinishReason::kLength);
}

TEST_F(DispatcherTest, ClientsFaultsAreNotRetried) {
  Make(2);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  links_[0]->last().Close(absl::InvalidArgumentError("bad"));
  ASSERT_TRUE(r.failed.has_value());
  EXPECT_TRUE(links_[1]->calls.empty());
  EXPECT_EQ(FromStatus(*r.failed).http_status, 400);
}

TEST_F(DispatcherTest, RetriesBeforeTheFirstTokenAreBounded) {
  DispatcherConfig config;
  config.n_retries_max = 2;
  Make(1, config);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  int n_attempts = 1;
  for (int i = 0; i < 10 && !r.failed; ++i) {
    if (!links_[0]->calls.empty()) links_[0]->last().Close(absl::UnavailableError("again"));
    clock_.Advance(absl::Milliseconds(200));
    dispatcher_->Tick();
    if (!links_[0]->calls.empty()) ++n_attempts;
  }
  ASSERT_TRUE(r.failed.has_value());
  EXPECT_EQ(n_attempts, 3);
}

TEST_F(DispatcherTest, ABusyWorkerIsTriedAgainUntilTheQueueTimesOut) {
  DispatcherConfig config;
  config.queue_timeout = absl::Seconds(2);
  Make(1, config);
  AllUp();
  Recorder served;
  Recorder refused;
  ASSERT_TRUE(Begin(served).ok());
  links_[0]->last().Close(absl::ResourceExhaustedError("full"));
  EXPECT_TRUE(links_[0]->calls.empty()) << "not at once again";
  clock_.Advance(absl::Seconds(1));
  dispatcher_->Tick();
  links_[0]->last().Send(Token(0, 10));
  EXPECT_THAT(served.tokens, ElementsAre(10));
  served.stream.reset();

  ASSERT_TRUE(Begin(refused).ok());
  const absl::Time begun = clock_.Now();
  for (int i = 0; i < 100 && !refused.failed; ++i) {
    if (!links_[0]->calls.empty()) links_[0]->last().Close(absl::ResourceExhaustedError("full"));
    clock_.Advance(absl::Milliseconds(50));
    dispatcher_->Tick();
  }
  ASSERT_TRUE(refused.failed.has_value());
  EXPECT_EQ(FromStatus(*refused.failed).code, "overloaded");
  EXPECT_LE(clock_.Now() - begun, absl::Seconds(3));
}

TEST_F(DispatcherTest, ABegunStreamThatFindsTheOtherWorkerFullWaitsAsLongAsOneThatFindsNone) {
  Make(2);
  AllUp();
  for (const bool gets_room : {true, false}) {
    Recorder r;
    ASSERT_TRUE(Begin(r).ok());
    const size_t first = links_[0]->calls.empty() ? 1 : 0;
    FakeLink& other = *links_[1 - first];
    links_[first]->last().Send(Token(0, 10));
    dispatcher_->OnWorkerDown(first, absl::UnavailableError("killed"));
    links_[first]->last().Close(absl::UnavailableError("killed"));
    const absl::Time begun = clock_.Now();
    while (!r.failed && clock_.Now() - begun < absl::Seconds(gets_room ? 25 : 100)) {
      if (!other.calls.empty()) other.last().Close(absl::ResourceExhaustedError("full"));
      clock_.Advance(absl::Milliseconds(50));
      dispatcher_->Tick();
    }
    EXPECT_EQ(r.failed.has_value(), !gets_room);
    if (gets_room) {
      ASSERT_FALSE(other.calls.empty());
      other.last().Send(Token(1, 11));
      EXPECT_THAT(r.tokens, ElementsAre(10, 11));
    } else {
      EXPECT_EQ(FromStatus(*r.failed).code, "overloaded");
      EXPECT_LE(clock_.Now() - begun, absl::Seconds(31));
    }
    r.stream.reset();
    AllUp();
  }
}

TEST_F(DispatcherTest, StreamsWhoseClientsDoNotReadTakeNoPlaceInTheQueue) {
  DispatcherConfig config;
  config.queue_capacity = 1;
  Make(1, config);
  AllUp();
  Recorder asleep;
  ASSERT_TRUE(Begin(asleep).ok());
  links_[0]->last().Send(Token(0, 10));
  asleep.stream->Pause();
  links_[0]->last().Close(absl::ResourceExhaustedError("slow reader"));
  ASSERT_EQ(dispatcher_->n_queued(), 1u);
  Recorder awake;
  ASSERT_TRUE(Begin(awake).ok());
  ASSERT_EQ(links_[0]->calls.size(), 1u) << "at once";
  links_[0]->last().Send(Token(0, 20));
  EXPECT_THAT(awake.tokens, ElementsAre(20));
}

TEST_F(DispatcherTest, WithoutWorkersStreamsWaitAndThenFailTyped) {
  DispatcherConfig config;
  config.queue_capacity = 2;
  config.queue_timeout = absl::Seconds(3);
  Make(1, config);
  Recorder a, b, c;
  ASSERT_TRUE(Begin(a).ok());
  ASSERT_TRUE(Begin(b).ok());
  const absl::Status refused = Begin(c);
  EXPECT_EQ(FromStatus(refused).code, "overloaded");
  EXPECT_EQ(FromStatus(refused).http_status, 503);
  b.stream.reset();  // a client that leaves makes room
  EXPECT_EQ(dispatcher_->n_queued(), 1u);
  clock_.Advance(absl::Seconds(4));
  dispatcher_->Tick();
  ASSERT_TRUE(a.failed.has_value());
  EXPECT_EQ(FromStatus(*a.failed).code, "no_workers");
  EXPECT_GT(FromStatus(*a.failed).retry_after_s, 0);
  EXPECT_EQ(dispatcher_->n_streams(), 0u);
}

TEST_F(DispatcherTest, AWaitingStreamStartsWhenAWorkerComesUp) {
  Make(1);
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  EXPECT_TRUE(links_[0]->calls.empty());
  AllUp();
  EXPECT_EQ(links_[0]->calls.size(), 1u);
  EXPECT_EQ(dispatcher_->n_queued(), 0u);
}

TEST_F(DispatcherTest, ABegunStreamWaitsForTheOnlyWorkerToComeBack) {
  Make(1);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  links_[0]->last().Send(Token(0, 10));
  dispatcher_->OnWorkerDown(0, absl::UnavailableError("killed"));
  links_[0]->last().Close(absl::UnavailableError("killed"));
  clock_.Advance(absl::Seconds(8));
  dispatcher_->Tick();
  EXPECT_FALSE(r.failed.has_value());
  AllUp();
  dispatcher_->Tick();
  ASSERT_EQ(links_[0]->calls.size(), 1u);
  EXPECT_THAT(links_[0]->last().request.committed, ElementsAre(10));
}

TEST_F(DispatcherTest, WhatAnotherModelBeganIsNotGoneOnWith) {
  const auto begin = [&](Recorder& recorder, uint8_t fingerprint) {
    StreamSpec spec;
    spec.prompt = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>(300, 7));
    spec.committed = {5};
    spec.max_tokens = 100;
    spec.begun_by = Info(fingerprint).fingerprint;
    return dispatcher_->Generate(std::move(spec), recorder);
  };
  Make(1);
  Recorder same;
  Recorder other;
  auto same_stream = begin(same, 1);
  auto other_stream = begin(other, 2);
  ASSERT_TRUE(same_stream.ok() && other_stream.ok()) << "nobody knows yet";
  AllUp();
  ASSERT_EQ(links_[0]->calls.size(), 1u);
  EXPECT_THAT(links_[0]->last().request.committed, ElementsAre(5));
  ASSERT_TRUE(other.failed.has_value());
  EXPECT_EQ(FromStatus(*other.failed).code, "session_of_another_model");
  EXPECT_EQ(FromStatus(begin(other, 2).status()).code, "session_of_another_model");
  EXPECT_FALSE(same.failed.has_value());
}

TEST_F(DispatcherTest, RefusesAWorkerThatServesSomethingElse) {
  Make(2);
  EXPECT_TRUE(dispatcher_->OnWorkerUp(0, Info(1)));
  EXPECT_FALSE(dispatcher_->OnWorkerUp(1, Info(2)));
  WorkerInfo other = Info(1);
  other.vocab_size = 999;
  EXPECT_FALSE(dispatcher_->OnWorkerUp(1, other));
  EXPECT_EQ(dispatcher_->n_ready(), 1u);
  // When the old model is gone for good, the new one takes over.
  dispatcher_->OnWorkerDown(0, absl::UnavailableError("replaced"));
  EXPECT_TRUE(dispatcher_->OnWorkerUp(1, Info(2)));
}

TEST_F(DispatcherTest, ADrainingWorkerGetsNothingNew) {
  Make(2);
  AllUp();
  WorkerUpdate update;
  update.load.draining = true;
  dispatcher_->OnWorkerUpdate(0, update);
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  EXPECT_EQ(links_[1]->calls.size(), 1u);
  EXPECT_EQ(dispatcher_->n_ready(), 1u);
}

TEST_F(DispatcherTest, DroppingAStreamCancelsItsCallAtOnceEvenFromInsideACallback) {
  Make(1);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  r.stream.reset();
  EXPECT_EQ(links_[0]->n_cancelled, 1);
  Recorder inside;
  inside.drop_at = 1;
  ASSERT_TRUE(Begin(inside).ok());
  links_[0]->last().Send(Token(0, 10));
  EXPECT_EQ(links_[0]->n_cancelled, 2);
  EXPECT_EQ(dispatcher_->n_streams(), 0u);
}

TEST_F(DispatcherTest, APausedStreamAsksForNothing) {
  Make(1);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  r.stream->Pause();
  FakeCall& call = links_[0]->last();
  call.Send(Token(0, 10));
  EXPECT_EQ(call.n_requested, 1);
  r.stream->Resume();
  EXPECT_EQ(call.n_requested, 2);
}

// A worker gives a stream up whose events nobody reads. That is no reason to fail it: it goes on once its client reads.
TEST_F(DispatcherTest, APausedStreamNeedsNoWorkerAndDoesNotExpire) {
  Make(1);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  links_[0]->last().Send(Token(0, 10));
  r.stream->Pause();
  links_[0]->last().Close(absl::ResourceExhaustedError("slow reader"));
  clock_.Advance(absl::Minutes(5));
  dispatcher_->Tick();
  EXPECT_TRUE(links_[0]->calls.empty());
  EXPECT_FALSE(r.failed.has_value());
  r.stream->Resume();
  dispatcher_->Tick();
  ASSERT_EQ(links_[0]->calls.size(), 1u);
  EXPECT_THAT(links_[0]->last().request.committed, ElementsAre(10));
}

TEST_F(DispatcherTest, LeavesAWorkerThatIsSilentForTooLong) {
  DispatcherConfig config;
  config.stall_timeout = absl::Seconds(5);
  Make(2, config);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  clock_.Advance(absl::Seconds(4));
  links_[0]->last().Send(PrefillProgress{1, 2});
  clock_.Advance(absl::Seconds(4));
  dispatcher_->Tick();
  EXPECT_TRUE(links_[1]->calls.empty());
  clock_.Advance(absl::Seconds(2));
  dispatcher_->Tick();
  EXPECT_EQ(links_[1]->calls.size(), 1u);
}

TEST_F(DispatcherTest, WaitsForAWorkerThatIsBusyWithOthersAsLongAsItSteps) {
  DispatcherConfig config;
  config.stall_timeout = absl::Seconds(5);
  Make(2, config);
  AllUp();
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  WorkerUpdate update;
  for (uint64_t step = 1; step <= 10; ++step) {
    clock_.Advance(absl::Seconds(4));
    update.load.n_steps = step;
    dispatcher_->OnWorkerUpdate(0, update);
    dispatcher_->Tick();
  }
  EXPECT_EQ(links_[0]->calls.size(), 1u) << "nothing was said on the stream for 40 s, but the worker works";
  clock_.Advance(absl::Seconds(4));
  dispatcher_->OnWorkerUpdate(0, update);  // it still talks, and steps no more
  clock_.Advance(absl::Seconds(2));
  dispatcher_->OnWorkerUpdate(0, update);
  dispatcher_->Tick();
  EXPECT_TRUE(links_[0]->calls.empty());
  EXPECT_EQ(links_[1]->calls.size(), 1u);
}

TEST_F(DispatcherTest, StreamsSpreadEvenBeforeTheWorkersReportTheirLoad) {
  Make(4);
  AllUp();
  std::vector<std::unique_ptr<Recorder>> recorders;
  for (int i = 0; i < 40; ++i) {
    recorders.push_back(std::make_unique<Recorder>());
    ASSERT_TRUE(Begin(*recorders.back()).ok());
  }
  for (const FakeLink* link : links_) EXPECT_EQ(link->calls.size(), 10u);
}

TEST_F(DispatcherTest, ABusyWorkerGetsTheStreamAllTheSame) {
  Make(1);
  AllUp();
  WorkerUpdate busy;
  busy.load.n_running = busy.load.n_sequences_max = 4;
  busy.load.n_waiting = 90;
  dispatcher_->OnWorkerUpdate(0, busy);
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  EXPECT_EQ(dispatcher_->n_queued(), 0u) << "it waits in the worker's line, not here";
  EXPECT_EQ(links_[0]->calls.size(), 1u);
}

TEST_F(DispatcherTest, TheSamePromptGoesWhereItsPrefixIs) {
  Make(2);
  AllUp();
  const std::vector<uint32_t> prompt(300, 7);
  const PromptKeys keys = MakePromptKeys(Info().fingerprint, "", 256, prompt);
  WorkerUpdate update;
  update.gained.push_back({keys.chain[1], keys.chain[1], 256});
  dispatcher_->OnWorkerUpdate(1, update);
  Recorder r;
  ASSERT_TRUE(Begin(r).ok());
  EXPECT_EQ(links_[1]->calls.size(), 1u);
}

}  // namespace
}  // namespace longshelf::router
