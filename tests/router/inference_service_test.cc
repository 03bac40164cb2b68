#include "router/inference_service.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "longshelf/v1/inference.grpc.pb.h"
#include "router_harness.h"
#include "tokenizer/chat.h"

namespace longshelf::router::testing {
namespace {

class InferenceService : public ::testing::Test {
 protected:
  std::unique_ptr<v1::Inference::Stub> Stub(RouterHarness& router) {
    return v1::Inference::NewStub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", router.service->grpc_port()),
                                                      grpc::InsecureChannelCredentials()));
  }
  // Of a client that takes little ahead of what it reads.
  std::unique_ptr<v1::Inference::Stub> StubWithASmallWindow(RouterHarness& router) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 10);
    return v1::Inference::NewStub(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", router.service->grpc_port()),
                                                            grpc::InsecureChannelCredentials(), arguments));
  }
};

TEST_F(InferenceService, ChatsWithReasoningContentAndUsage) {
  RouterHarness router;
  const auto stub = Stub(router);
  v1::ChatRequest request;
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("hi");
  grpc::ClientContext context;
  const auto reader = stub->Chat(&context, request);
  std::string reasoning, content;
  v1::ChatReply reply;
  while (reader->Read(&reply)) {
    reasoning += reply.reasoning_content();
    content += reply.content();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(reasoning, RouterHarness::kReasoning);
  EXPECT_EQ(content, RouterHarness::kContent);
  EXPECT_EQ(reply.finish_reason(), "stop");
  EXPECT_EQ(reply.usage().completion_tokens(), RouterHarness::AnswerTokens().size());
}

TEST_F(InferenceService, ACallThatWasDemandedIsAFormOfTheOutput) {
  RouterHarness router(
      1, RouterHarness::DefaultConfig(),
      {RouterHarness::Tokens("</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n"
                             "<｜DSML｜parameter name=\"city\" string=\"true\">Oslo</｜DSML｜parameter>\n"
                             "</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>")});
  const auto stub = Stub(router);
  v1::ChatRequest request;
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("Weather?");
  request.add_tools()->set_name("get_weather");
  request.set_tool_choice_name("get_weather");
  // Calls whose deltas came together.
  const auto ask = [&](std::vector<v1::ToolCall>& calls) {
    grpc::ClientContext context;
    const auto reader = stub->Chat(&context, request);
    v1::ChatReply reply;
    calls.clear();
    while (reader->Read(&reply)) {
      for (const v1::ToolCallDelta& delta : reply.tool_calls()) {
        if (delta.index() == calls.size()) calls.emplace_back();
        v1::ToolCall& call = calls.at(delta.index());
        if (!delta.name().empty()) call.set_name(delta.name());
        if (!delta.id().empty()) call.set_id(delta.id());
        call.mutable_arguments_json()->append(delta.arguments_json());
      }
    }
    return reader->Finish();
  };
  std::vector<v1::ToolCall> calls;
  EXPECT_TRUE(ask(calls).ok());
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].name(), "get_weather");
  EXPECT_EQ(calls[0].arguments_json(), R"({"city": "Oslo"})");
  request.set_tool_choice_mode("required");
  EXPECT_TRUE(ask(calls).ok());
  const auto last = router.workers[0]->requests().back();
  EXPECT_EQ(last.output_form().calls(), v1::OutputForm::CALLS_REQUIRED);
  EXPECT_TRUE(last.output_form().after_thinking());
}

TEST_F(InferenceService, GeneratesAndResumesOnAnotherWorker) {
  Script dying{RouterHarness::AnswerTokens()};
  dying.fails_at = 4;
  RouterHarness router(2, RouterHarness::DefaultConfig(), dying);
  router.workers[1]->SetScript({RouterHarness::AnswerTokens()});
  const auto stub = Stub(router);
  for (int i = 0; i < 2; ++i) {
    v1::GenerateRequest request;
    request.set_text("hi");
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    std::vector<uint32_t> tokens;
    v1::GenerateReply reply;
    while (reader->Read(&reply)) tokens.insert(tokens.end(), reply.tokens().begin(), reply.tokens().end());
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(tokens, RouterHarness::AnswerTokens());
  }
}

TEST_F(InferenceService, SaysHowMuchOfThePromptWasReadAndSaysItAgainWhileItIsSilent) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.keep_alive_interval = absl::Milliseconds(100);
  Script reading{RouterHarness::AnswerTokens()};
  reading.progress = {2};
  reading.held = reading.begins_held = true;
  RouterHarness router(1, config, reading);
  const auto stub = Stub(router);
  v1::GenerateRequest request;
  for (uint32_t id = 10; id < 17; ++id) request.mutable_tokens()->add_ids(id);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateReply reply;
  // Once from the worker, then again and again although it is silent.
  for (int n_seen = 0; n_seen < 3;) {
    ASSERT_TRUE(reader->Read(&reply));
    ASSERT_TRUE(reply.has_progress());
    EXPECT_EQ(reply.progress().n_total(), 7u);
    EXPECT_EQ(reply.tokens_size(), 0);
    if (reply.progress().n_done() == 2) ++n_seen;
  }
  router.workers[0]->Release();
  std::vector<uint32_t> tokens;
  while (reader->Read(&reply)) tokens.insert(tokens.end(), reply.tokens().begin(), reply.tokens().end());
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, RouterHarness::AnswerTokens());
}

TEST_F(InferenceService, JudgesALongPromptByItsTokensHoweverLargeItIsAsJson) {
  RouterHarness router;
  router.Chat();  // a worker has said how much it takes: 8192
  const auto stub = Stub(router);
  v1::GenerateRequest request;
  request.set_text(std::string(size_t{3} << 20, '\x01'));  // six bytes each as JSON: more than any body may have
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateReply reply;
  EXPECT_FALSE(reader->Read(&reply));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("8192")) << "names the context";
}

TEST_F(InferenceService, JudgesFieldsByTheSameTable) {
  RouterHarness router;
  const auto stub = Stub(router);
  v1::GenerateRequest request;
  request.set_text("hi");
  request.mutable_options()->set_temperature(3);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateReply reply;
  EXPECT_FALSE(reader->Read(&reply));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("temperature"));
}

TEST_F(InferenceService, NumbersThatJsonDoesNotHaveAreRefusedNotReplaced) {
  RouterHarness router;
  const auto stub = Stub(router);
  using Options = v1::GenerationOptions;
  constexpr void (Options::*kSetters[])(double) = {&Options::set_temperature, &Options::set_top_p, &Options::set_min_p,
                                                   &Options::set_presence_penalty, &Options::set_frequency_penalty};
  for (const auto set : kSetters) {
    for (const double value : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
      v1::GenerateRequest request;
      request.set_text("hi");
      (request.mutable_options()->*set)(value);
      grpc::ClientContext context;
      EXPECT_EQ(stub->Generate(&context, request)->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    }
  }
}

TEST_F(InferenceService, ACancelledCallCancelsItsSequence) {
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  RouterHarness router(1, RouterHarness::DefaultConfig(), held);
  const auto stub = Stub(router);
  v1::GenerateRequest request;
  request.set_text("hi");
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  ASSERT_TRUE(router.workers[0]->AwaitCalls(1));
  context.TryCancel();
  EXPECT_TRUE(router.workers[0]->AwaitCancelled(1));
  v1::GenerateReply reply;
  while (reader->Read(&reply)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(InferenceService, AClientThatReadsNothingIsDropped) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.write_timeout = absl::Milliseconds(200);
  RouterHarness router(1, config, Script{std::vector<uint32_t>(8000, 43)}, /*n_context_max=*/1 << 20);
  const auto stub = StubWithASmallWindow(router);
  v1::GenerateRequest request;
  request.set_text("hi");
  request.mutable_options()->set_top_logprobs(5);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  EXPECT_TRUE(router.workers[0]->AwaitCancelled(1));
  EXPECT_THAT(router.Metrics(), ::testing::HasSubstr("longshelf_router_slow_clients_dropped_total 1\n"));
  v1::GenerateReply reply;
  while (reader->Read(&reply)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(InferenceService, AClientThatDoesNotReadTheEndIsDroppedToo) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.write_timeout = absl::Seconds(1);  // a busy machine sends all of it before
  RouterHarness router(1, config, Script{std::vector<uint32_t>(200, 43)});
  const auto stub = StubWithASmallWindow(router);
  v1::GenerateRequest request;
  request.set_text("hi");
  request.mutable_options()->set_max_tokens(200);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  const absl::Time patience = router.clock.Now() + absl::Seconds(10);
  while (router.Metrics().find("longshelf_router_slow_clients_dropped_total 1\n") == std::string::npos) {
    ASSERT_LT(router.clock.Now(), patience);
  }
  EXPECT_EQ(router.workers[0]->n_tokens_sent(), 200u);
  v1::GenerateReply reply;
  while (reader->Read(&reply)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(InferenceService, SaysTheCodeOfAnErrorAsHttpDoes) {
  RouterHarness router;
  const auto stub = Stub(router);
  grpc::ClientContext context;
  v1::SessionRef session;
  session.set_id("s");
  v1::SessionState state;
  const grpc::Status status = stub->GetSession(&context, session, &state);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), ::testing::StartsWith("session_not_found: "));
}

TEST_F(InferenceService, WhatWasNeverParkedHasNoDurability) {
  RouterHarness router;
  const auto stub = Stub(router);
  v1::GenerateRequest request;
  request.set_text("hi");
  request.mutable_session()->set_id("s");
  grpc::ClientContext generating;
  const auto reader = stub->Generate(&generating, request);
  v1::GenerateReply reply;
  while (reader->Read(&reply)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  grpc::ClientContext context;
  v1::SessionRef session;
  session.set_id("s");
  v1::SessionState state;
  ASSERT_TRUE(stub->GetSession(&context, session, &state).ok());
  EXPECT_EQ(state.status(), "finished");
  EXPECT_EQ(state.parked_unix_s(), 0);
  EXPECT_EQ(state.durability(), "");
}

TEST_F(InferenceService, AnEmptyUserIsNotTheTenant) {
  RouterHarness router;
  const auto stub = Stub(router);
  v1::DeleteCacheRequest request;
  request.set_user_id("");
  for (const auto code : {grpc::StatusCode::INVALID_ARGUMENT, grpc::StatusCode::FAILED_PRECONDITION}) {
    grpc::ClientContext context;
    v1::DeleteCacheReply reply;
    EXPECT_EQ(stub->DeleteCache(&context, request, &reply).error_code(), code) << "it has no store";
    request.clear_user_id();
  }
}

TEST_F(InferenceService, TakesAUserAndRefusesLogprobsThatAChatCannotReturn) {
  RouterHarness router;
  const auto stub = Stub(router);
  for (const char* user : {"", "u1", "u2"}) {
    v1::GenerateRequest request;
    request.set_text("hi");
    request.mutable_options()->set_user_id(user);
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    v1::GenerateReply reply;
    while (reader->Read(&reply)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
  }
  std::set<std::string> salts;
  for (const auto& request : router.workers[0]->requests()) salts.insert(request.namespace_salt());
  EXPECT_EQ(salts.size(), 3u);
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  chat.mutable_options()->set_top_logprobs(2);
  grpc::ClientContext context;
  const auto reader = stub->Chat(&context, chat);
  v1::ChatReply reply;
  while (reader->Read(&reply)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("options.top_logprobs"));
}

TEST_F(InferenceService, CountsTokensWithoutGenerating) {
  RouterHarness router;
  const auto stub = Stub(router);
  v1::CountTokensRequest request;
  request.set_text("one two three");
  v1::CountTokensReply reply;
  grpc::ClientContext context;
  EXPECT_TRUE(stub->CountTokens(&context, request, &reply).ok());
  EXPECT_GT(reply.n_tokens(), 0u);
  EXPECT_TRUE(router.workers[0]->requests().empty());
}

}  // namespace
}  // namespace longshelf::router::testing
