#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "service_fixture.h"

namespace longshelf::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::WorkerGenerateEvent;
using v1::WorkerGenerateRequest;

// Keeps what it was asked and answers when told to.
class FakePrefixSource final : public PrefixSource {
 public:
  void Restore(RestoreRequest request, std::function<void(RestoreOutcome)> done) override {
    request_ = std::move(request);
    done_ = std::move(done);
    asked_.Post(1);
  }
  void Park(ParkCommand command, std::function<void(absl::StatusOr<ParkOutcome>)> done) override {
    parked_ = command;
    done(park_answer_);
  }

  Mailbox<int> asked_{4};
  RestoreRequest request_;
  std::function<void(RestoreOutcome)> done_;
  ParkCommand parked_;
  absl::StatusOr<ParkOutcome> park_answer_ = ParkOutcome{};
};

class GenerateServiceTest : public ServiceFixture {
 protected:
  // Reads to the end without looking.
  static grpc::Status End(grpc::ClientReader<WorkerGenerateEvent>& reader) {
    WorkerGenerateEvent event;
    while (reader.Read(&event)) {
    }
    return reader.Finish();
  }

  grpc::Status Refusal(const WorkerGenerateRequest& request) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, request);
    return End(*reader);
  }
};

TEST_F(GenerateServiceTest, StreamsStartTokensAndOneFinishWithTheRequestsEpoch) {
  Serve(Options());
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  auto& sink = *submit.request.sink;
  sink.OnEvent(engine::Started{3, 2, 0, "diverged"});
  sink.OnEvent(engine::PrefillProgress{3, 3});
  sink.OnEvent(TokenEvent(0, 42));
  sink.OnEvent(TokenEvent(1, 43));
  sink.OnEvent(engine::Finished{engine::FinishReason::kLength, 2});

  std::vector<WorkerGenerateEvent> events;
  WorkerGenerateEvent event;
  while (reader->Read(&event)) events.push_back(event);
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_EQ(events.size(), 5);
  for (const auto& e : events) EXPECT_EQ(e.epoch(), 5);
  EXPECT_EQ(events[0].started().n_cached_local(), 2);
  EXPECT_EQ(events[0].started().miss_reason(), "diverged");
  EXPECT_EQ(events[1].progress().n_done(), 3);
  EXPECT_EQ(events[2].token().token(), 42);
  EXPECT_EQ(events[3].token().index(), 1);
  EXPECT_EQ(events[4].finished().reason(), v1::Finished::REASON_LENGTH);
  EXPECT_EQ(events[4].finished().n_output_tokens(), 2);
}

TEST_F(GenerateServiceTest, ReportsProgressAFewTimesASecondHoweverOftenTheEngineDoes) {
  WorkerServiceOptions options = Options();
  options.progress_interval = absl::Hours(1);
  Serve(options);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  auto& sink = *submit.request.sink;
  for (uint32_t i = 1; i <= 100'000; ++i) sink.OnEvent(engine::PrefillProgress{i, 100'000});
  sink.OnEvent(TokenEvent(0, 42));
  sink.OnEvent(engine::Finished{engine::FinishReason::kLength, 1});
  std::vector<WorkerGenerateEvent> events;
  WorkerGenerateEvent event;
  while (reader->Read(&event)) events.push_back(event);
  EXPECT_TRUE(reader->Finish().ok()) << "progress that nobody reads is no slow client";
  ASSERT_EQ(events.size(), 3);
  EXPECT_EQ(events[0].progress().n_done(), 1) << "the first one at once";
  EXPECT_EQ(events[1].token().token(), 42);
}

TEST_F(GenerateServiceTest, CompilesTheFormOfAnOutputBeforeTheEngineHearsOfIt) {
  WorkerServiceOptions options = Options();
  const std::vector<grammar::Vocabulary::Token> tokens = {{"a", false}, {"<end>", true}};
  options.constraints = std::make_shared<grammar::ConstraintCache>(std::make_shared<const grammar::Vocabulary>(tokens));
  Serve(options);
  WorkerGenerateRequest request = GoodRequest();
  request.add_stop_token_ids(0);
  request.add_stop_token_ids(1);
  request.mutable_output_form()->set_answer_schema(R"({"uniqueItems":true})");
  grpc::ClientContext refused;
  const grpc::Status status = stub_->Generate(&refused, request)->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("output_form: answer_schema: \"uniqueItems\""));
  request.mutable_output_form()->set_answer_schema(R"({"type":"string"})");
  request.mutable_output_form()->set_after_thinking(true);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  const engine::SequenceRequest got = Take<engine::Submit>().request;
  const auto spec = grammar::OutputSpec::Parse(got.output_spec);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->answer_schema, R"({"type":"string"})");
  EXPECT_TRUE(spec->after_thinking);
  EXPECT_EQ(got.end_token_ids, std::vector<uint32_t>({1})) << "the one that stands in no text";
}

TEST_F(GenerateServiceTest, RefusesAFormWithoutATokenizer) {
  Serve(Options());
  WorkerGenerateRequest request = GoodRequest();
  request.mutable_output_form()->set_answer_schema("{}");
  grpc::ClientContext context;
  EXPECT_EQ(stub_->Generate(&context, request)->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(GenerateServiceTest, GivesTheEngineEverythingTheRequestSays) {
  WorkerServiceOptions options = Options();
  options.allow_logits = true;
  Serve(options);
  WorkerGenerateRequest request = GoodRequest();
  request.add_committed_tokens(9);
  request.add_stop_token_ids(11);
  request.set_namespace_id("tenant");
  request.set_namespace_salt(std::string(32, 's'));
  request.set_return_logits(true);
  request.set_no_cache_read(true);
  request.mutable_sampling()->set_temperature(0.5);
  request.mutable_sampling()->set_top_k(12);
  request.mutable_sampling()->set_seed(1234567890123ULL);
  request.mutable_sampling()->set_logprobs(true);
  for (const uint32_t token : {7U, 900U}) {
    v1::TokenBias& entry = *request.mutable_sampling()->add_logit_bias();
    entry.set_token(token);
    entry.set_bias(-1.5F);
  }
  request.set_prompt_logprobs(true);
  request.set_n_prompt_scored(3);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  const engine::SequenceRequest got = Take<engine::Submit>().request;
  EXPECT_THAT(got.prompt, ElementsAre(1, 2, 3));
  EXPECT_THAT(got.committed, ElementsAre(9));
  EXPECT_THAT(got.stop_token_ids, ElementsAre(11));
  EXPECT_EQ(got.max_tokens, 16);
  EXPECT_EQ(got.namespace_id, "tenant");
  EXPECT_EQ(got.namespace_salt, std::string(32, 's'));
  EXPECT_TRUE(got.return_logits);
  EXPECT_TRUE(got.no_cache_read);
  EXPECT_EQ(got.sampling.temperature, 0.5);
  EXPECT_EQ(got.sampling.top_p, 1.0) << "an unset top_p means off";
  EXPECT_EQ(got.sampling.top_k, 12);
  EXPECT_EQ(got.sampling.seed, 1234567890123ULL);
  EXPECT_TRUE(got.sampling.logprobs);
  EXPECT_THAT(got.sampling.logit_bias, ElementsAre(engine::TokenBias{7, -1.5F}, engine::TokenBias{900, -1.5F}));
  EXPECT_TRUE(got.prompt_logprobs);
  EXPECT_EQ(got.n_prompt_scored, 3);
  got.sink->OnEvent(TokenEvent(1, 2, 1000));
  got.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, 2});
  WorkerGenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.token().logits().size(), 4000);
  EXPECT_TRUE(End(*reader).ok());
}

TEST_F(GenerateServiceTest, RefusesEveryFieldOutsideItsLimitByNameAndTellsTheEngineNothing) {
  Serve(Options());
  struct Case {
    std::string field;
    std::function<void(WorkerGenerateRequest&)> spoil;
  };
  const std::vector<Case> cases = {
      {"request_id", [](auto& r) { r.set_request_id(std::string(129, 'x')); }},
      {"prompt_tokens", [](auto& r) { r.clear_prompt_tokens(); }},
      {"prompt_tokens", [](auto& r) { r.mutable_prompt_tokens()->Resize(512, 1); }},
      {"prompt_tokens[1]", [](auto& r) { r.set_prompt_tokens(1, 1000); }},
      {"committed_tokens[0]", [](auto& r) { r.add_committed_tokens(4294967295U); }},
      {"committed_tokens", [](auto& r) { r.mutable_committed_tokens()->Resize(16, 1); }},
      {"max_tokens", [](auto& r) { r.set_max_tokens(513); }},
      {"stop_token_ids[0]", [](auto& r) { r.add_stop_token_ids(1000); }},
      {"stop_token_ids", [](auto& r) { r.mutable_stop_token_ids()->Resize(65, 1); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-0.1); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(std::nan("")); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(1.5); }},
      {"sampling.top_k", [](auto& r) { r.mutable_sampling()->set_top_k(1001); }},
      {"sampling.min_p", [](auto& r) { r.mutable_sampling()->set_min_p(-1); }},
      {"sampling.presence_penalty", [](auto& r) { r.mutable_sampling()->set_presence_penalty(3); }},
      {"sampling.frequency_penalty", [](auto& r) { r.mutable_sampling()->set_frequency_penalty(HUGE_VAL); }},
      {"sampling.n_top_logprobs", [](auto& r) { r.mutable_sampling()->set_n_top_logprobs(21); }},
      {"sampling.logit_bias entries",
       [](auto& r) {
         for (uint32_t i = 0; i < 1025; ++i) r.mutable_sampling()->add_logit_bias()->set_token(i);
       }},
      {"sampling.logit_bias.token",
       [](auto& r) {
         for (int i = 0; i < 2; ++i) r.mutable_sampling()->add_logit_bias()->set_token(7);
       }},
      {"sampling.logit_bias.token", [](auto& r) { r.mutable_sampling()->add_logit_bias()->set_token(1000); }},
      {"sampling.logit_bias.bias", [](auto& r) { r.mutable_sampling()->add_logit_bias()->set_bias(-101); }},
      {"n_prompt_scored",
       [](auto& r) {
         r.set_prompt_logprobs(true);
         r.set_n_prompt_scored(2);
         r.add_committed_tokens(1);
       }},
      {"namespace_id", [](auto& r) { r.set_namespace_id(std::string(65, 'n')); }},
      {"namespace_salt", [](auto& r) { r.set_namespace_salt("short"); }},
  };
  for (const Case& c : cases) {
    WorkerGenerateRequest request = GoodRequest();
    c.spoil(request);
    const grpc::Status status = Refusal(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << c.field;
    EXPECT_THAT(status.error_message(), HasSubstr(c.field));
  }
  EXPECT_TRUE(EngineWasToldNothing());
}

TEST_F(GenerateServiceTest, RefusesLogitsUnlessTheWorkerAllowsThem) {
  Serve(Options());
  WorkerGenerateRequest request = GoodRequest();
  request.set_return_logits(true);
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(), HasSubstr("--allow-logits"));
}

TEST_F(GenerateServiceTest, TellsTheEngineAtOnceWhenTheClientCancels) {
  Serve(Options());
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  submit.request.sink->OnEvent(engine::Started{3, 0, 0, ""});
  WorkerGenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_EQ(Take<engine::Cancel>().id, submit.request.id);
  // What the engine still says goes nowhere and harms nobody.
  submit.request.sink->OnEvent(TokenEvent(0, 1));
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kCancelled, 1});
  EXPECT_EQ(End(*reader).error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GenerateServiceTest, CancelReachesAnEngineWhoseInboxWasFull) {
  Serve(Options());
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(inbox_.Post(engine::DrainRequest{}));
  context.TryCancel();
  EXPECT_EQ(End(*reader).error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 8; ++i) Take<engine::DrainRequest>();
  EXPECT_EQ(Take<engine::Cancel>().id, submit.request.id);
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kCancelled, 0});
}

TEST_F(GenerateServiceTest, CancelsAClientThatDoesNotReadAndLeavesTheOthersAlone) {
  WorkerServiceOptions options = Options();
  options.allow_logits = true;
  Serve(options);
  grpc::ClientContext lazy_context;
  const auto lazy = stub_->Generate(&lazy_context, GoodRequest());
  const auto lazy_submit = Take<engine::Submit>();
  const auto other_channel = NewChannel();
  const auto other_stub = v1::Worker::NewStub(other_channel);
  grpc::ClientContext context;
  const auto reader = other_stub->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();

  // Far more than the buffer and all of gRPC's windows: 16 KB each.
  constexpr uint32_t kTokens = 4000;
  uint32_t n_read = 0;
  bool cancelled = false;
  for (uint32_t i = 0; i < kTokens && !cancelled; ++i) {
    lazy_submit.request.sink->OnEvent(TokenEvent(i, 1, 4000));
    submit.request.sink->OnEvent(TokenEvent(i, i % 1000));
    WorkerGenerateEvent event;
    ASSERT_TRUE(reader->Read(&event)) << "the other stream must go on";
    ASSERT_EQ(event.token().index(), n_read++);
    cancelled = inbox_.size() > 0;
  }
  ASSERT_EQ(Take<engine::Cancel>().id, lazy_submit.request.id);
  lazy_submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kCancelled, 0});
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, n_read});
  EXPECT_TRUE(End(*reader).ok());
  EXPECT_FALSE(End(*lazy).ok());
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("longshelf_worker_streams_total{result=\"slow_client\"} 1"));
}

// The context of a call is gone as soon as the call has ended.
TEST_F(GenerateServiceTest, AClientThatDoesNotReadMayLeaveWhileItIsCancelledForThat) {
  WorkerServiceOptions options = Options();
  options.allow_logits = true;
  Serve(options);
  for (int round = 0; round < 10; ++round) {
    grpc::ClientContext context;
    const auto lazy = stub_->Generate(&context, GoodRequest());
    const auto submit = Take<engine::Submit>();
    for (uint32_t i = 0; i < 10000 && inbox_.size() == 0; ++i) {
      submit.request.sink->OnEvent(TokenEvent(i, 1, 4000));
    }
    context.TryCancel();
    EXPECT_FALSE(End(*lazy).ok());
    ASSERT_EQ(Take<engine::Cancel>().id, submit.request.id);
    submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kCancelled, 0});
  }
}

TEST_F(GenerateServiceTest, ALongSilenceDoesNotEndAHealthyStream) {
  Serve(Options());
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  // Keepalive pings go on meanwhile; a server with gRPC's own limits would have hung up after four seconds.
  EXPECT_TRUE(inbox_.Drain(std::chrono::seconds(7)).empty()) << "nothing was cancelled";
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, 0});
  EXPECT_TRUE(End(*reader).ok());
}

TEST_F(GenerateServiceTest, PassesOnWhyTheEngineFailedASequence) {
  Serve(Options());
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  Take<engine::Submit>().request.sink->OnEvent(engine::Failed{absl::UnavailableError("a shard is gone")});
  const grpc::Status status = End(*reader);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "a shard is gone");
}

TEST_F(GenerateServiceTest, SaysRetryLaterWhenTheEnginesInboxIsFull) {
  Serve(Options());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(inbox_.Post(engine::DrainRequest{}));
  EXPECT_EQ(Refusal(GoodRequest()).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GenerateServiceTest, BoundsTheNumberOfOpenStreams) {
  WorkerServiceOptions options = Options();
  options.n_streams_max = 1;
  Serve(options);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  EXPECT_EQ(Refusal(GoodRequest()).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, 0});
  EXPECT_TRUE(End(*reader).ok());
}

TEST_F(GenerateServiceTest, DrainRefusesNewStreamsAndLetsRunningOnesFinish) {
  Serve(Options());
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  const auto submit = Take<engine::Submit>();
  grpc::ClientContext drain_context;
  v1::DrainReply reply;
  ASSERT_TRUE(stub_->Drain(&drain_context, v1::DrainRequest(), &reply).ok());
  EXPECT_EQ(reply.n_running(), 1);
  Take<engine::DrainRequest>();
  EXPECT_EQ(Refusal(GoodRequest()).error_code(), grpc::StatusCode::UNAVAILABLE);
  submit.request.sink->OnEvent(TokenEvent(0, 1));
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, 1});
  EXPECT_TRUE(End(*reader).ok());
}

class EmptyFeed final : public engine::PrefixFeed {
 public:
  int64_t n_tokens() const override { return 2; }
  void Begin(uint16_t, int64_t) override {}
  Arrived Take(int64_t) override { return {}; }
  void Stop() override {}
};

TEST_F(GenerateServiceTest, SubmitsWhatTheStoreKnows) {
  FakePrefixSource source;
  Serve(Options(), &source);
  WorkerGenerateRequest request = GoodRequest();
  request.add_committed_tokens(9);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  ASSERT_FALSE(source.asked_.Drain(kPatience).empty());
  EXPECT_THAT(source.request_.tokens, ElementsAre(1, 2, 3, 9));
  EXPECT_TRUE(EngineWasToldNothing());
  RestoreOutcome outcome;
  const auto feed = std::make_shared<EmptyFeed>();
  outcome.feed = feed;
  outcome.miss_reason = "missing";
  outcome.n_shared = 512;
  source.done_(std::move(outcome));
  const auto submit = Take<engine::Submit>();
  EXPECT_EQ(submit.request.feed, feed);
  EXPECT_EQ(submit.request.store_miss_reason, "missing");
  EXPECT_EQ(submit.request.n_shared_elsewhere, 512);
  submit.request.sink->OnEvent(engine::Started{3, 0, 2, "missing"});
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, 1});
  EXPECT_TRUE(End(*reader).ok());
}

TEST_F(GenerateServiceTest, DoesNotAskTheStoreWhenTheCacheMustNotBeRead) {
  FakePrefixSource source;
  Serve(Options(), &source);
  WorkerGenerateRequest request = GoodRequest();
  request.set_no_cache_read(true);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  Take<engine::Submit>().request.sink->OnEvent(engine::Finished{engine::FinishReason::kStop, 1});
  EXPECT_TRUE(End(*reader).ok());
  EXPECT_EQ(source.done_, nullptr);
}

TEST_F(GenerateServiceTest, TellsOfPromptTokensWithoutAskingTheStoreForThem) {
  FakePrefixSource source;
  Serve(Options(), &source);
  WorkerGenerateRequest request = GoodRequest();
  request.set_prompt_logprobs(true);
  request.set_max_tokens(0);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  const auto submit = Take<engine::Submit>();
  EXPECT_TRUE(submit.request.wants_prompt_scores());
  submit.request.sink->OnEvent(engine::PromptLogprobs{1, {{2, -0.5F, {{9, -0.25F}}}, {3, -1.5F, {}}}});
  submit.request.sink->OnEvent(engine::Finished{engine::FinishReason::kLength, 0});
  WorkerGenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.epoch(), 5);
  EXPECT_EQ(event.prompt_logprobs().first(), 1);
  ASSERT_EQ(event.prompt_logprobs().tokens_size(), 2);
  EXPECT_EQ(event.prompt_logprobs().tokens(0).top(0).token(), 9);
  EXPECT_EQ(event.prompt_logprobs().tokens(0).top(0).logprob(), -0.25F);
  EXPECT_EQ(event.prompt_logprobs().tokens(1).token(), 3);
  EXPECT_EQ(event.prompt_logprobs().tokens(1).logprob(), -1.5F);
  EXPECT_TRUE(End(*reader).ok());
  EXPECT_EQ(source.done_, nullptr);
}

TEST_F(GenerateServiceTest, ForgetsASequenceThatIsCancelledWhileItsPrefixIsFetched) {
  FakePrefixSource source;
  Serve(Options(), &source);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, GoodRequest());
  ASSERT_FALSE(source.asked_.Drain(kPatience).empty());
  context.TryCancel();
  EXPECT_EQ(End(*reader).error_code(), grpc::StatusCode::CANCELLED);
  // The client's end is known before the server's; this waits for the latter.
  server_->Shutdown(absl::Seconds(10));
  EXPECT_TRUE(source.request_.cancelled->load());
  source.done_({});
  EXPECT_TRUE(EngineWasToldNothing());
}

TEST_F(GenerateServiceTest, ParkAnswersWithWhatWasStored) {
  FakePrefixSource source;
  ParkOutcome outcome;
  outcome.n_tokens = 2;
  outcome.n_objects = 3;
  outcome.n_bytes = 400;
  outcome.checkpoint_key.fill(9);
  source.park_answer_ = outcome;
  Serve(Options(), &source);
  v1::ParkRequest request;
  request.add_tokens(1);
  request.add_tokens(2);
  request.set_namespace_id("tenant");
  request.set_retain_until_unix_ms(static_cast<uint64_t>(absl::ToUnixMillis(clock_.WallNow() + absl::Hours(1))));
  grpc::ClientContext context;
  v1::ParkReply reply;
  const grpc::Status status = stub_->Park(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.n_tokens(), 2);
  EXPECT_EQ(reply.n_objects(), 3);
  EXPECT_EQ(reply.n_bytes(), 400);
  EXPECT_EQ(reply.checkpoint_key(), std::string(32, '\x09'));
  EXPECT_THAT(source.parked_.tokens, ElementsAre(1, 2));
  EXPECT_EQ(source.parked_.namespace_id, "tenant");

  // A year, by the clock of a router that is a little ahead.
  request.set_retain_until_unix_ms(
      static_cast<uint64_t>(absl::ToUnixMillis(clock_.WallNow() + absl::Hours(24 * 366) + absl::Minutes(1))));
  grpc::ClientContext long_context;
  EXPECT_TRUE(stub_->Park(&long_context, request, &reply).ok());

  request.set_retain_until_unix_ms(1);
  grpc::ClientContext late_context;
  const grpc::Status late = stub_->Park(&late_context, request, &reply);
  EXPECT_EQ(late.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(late.error_message(), HasSubstr("retain_until_unix_ms"));
}

TEST_F(GenerateServiceTest, ParkWithoutAStoreSaysWhichFlagIsMissing) {
  Serve(Options());
  v1::ParkRequest request;
  request.add_tokens(1);
  request.set_retain_until_unix_ms(static_cast<uint64_t>(absl::ToUnixMillis(clock_.WallNow() + absl::Hours(1))));
  grpc::ClientContext context;
  v1::ParkReply reply;
  const grpc::Status status = stub_->Park(&context, request, &reply);
  // Not what a router takes for a store that has no room: it keeps the tokens all the same.
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("--kvstore"));
}

}  // namespace
}  // namespace longshelf::worker
