#include "router/http_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "router_harness.h"
#include "testing/fixtures.h"
#include "tokenizer/chat.h"

namespace longshelf::router::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

Json Parsed(const Reply& reply) { return Json::parse(reply.body(), nullptr, false); }

void ExpectAnswer(const Reply& reply) {
  ASSERT_EQ(reply.result_int(), 200u) << reply.body();
  const Json json = Parsed(reply);
  EXPECT_EQ(json["choices"][0]["message"]["content"], RouterHarness::kContent);
  EXPECT_EQ(json["choices"][0]["message"]["reasoning_content"], RouterHarness::kReasoning);
  EXPECT_EQ(json["system_fingerprint"], "fp_010000000000");  // of the workers' model fingerprint
}

TEST(HttpApi, AnswersAChatInOnePieceWithUsage) {
  Script script{RouterHarness::AnswerTokens()};
  script.n_cached = 3;
  RouterHarness router(1, RouterHarness::DefaultConfig(), script);
  const Reply reply = router.Chat();
  ExpectAnswer(reply);
  EXPECT_FALSE(reply["x-request-id"].empty());
  EXPECT_FALSE(reply["Content-Length"].empty()) << "an answer in time is sent in one piece";
  const Json json = Parsed(reply);
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  const Json usage = json["usage"];
  EXPECT_EQ(usage["completion_tokens"], RouterHarness::AnswerTokens().size());
  EXPECT_EQ(usage["prompt_cache_hit_tokens"], 3);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 3);
  EXPECT_EQ(usage["prompt_cache_miss_tokens"].get<int>() + 3, usage["prompt_tokens"].get<int>());
  EXPECT_GT(usage["completion_tokens_details"]["reasoning_tokens"], 0);
  EXPECT_EQ(usage["total_tokens"], usage["prompt_tokens"].get<int>() + usage["completion_tokens"].get<int>());
}

TEST(HttpApi, StreamsTheSameText) {
  RouterHarness router;
  const Reply reply = router.Chat(R"("stream":true,"stream_options":{"include_usage":true})");
  EXPECT_THAT(std::string(reply["Content-Type"]), HasSubstr("text/event-stream"));
  const StreamedText text = ParseStream(reply.body());
  EXPECT_EQ(text.reasoning, RouterHarness::kReasoning);
  EXPECT_EQ(text.content, RouterHarness::kContent);
  EXPECT_EQ(text.finish_reason, "stop");
  EXPECT_TRUE(text.done);
  EXPECT_THAT(reply.body(), HasSubstr(R"("choices":[],"usage":{"prompt_tokens")"));
}

TEST(HttpApi, SaysHowMuchOfThePromptWasRead) {
  Script reading{RouterHarness::AnswerTokens()};
  reading.progress = {2, 4};
  RouterHarness router(1, RouterHarness::DefaultConfig(), reading);
  const std::string body = router.Chat(R"("stream":true)").body();
  const size_t n_prompt = static_cast<size_t>(router.workers[0]->requests()[0].prompt_tokens_size());
  const size_t at = body.find(absl::StrCat(": prefill 2/", n_prompt, "\n\n"));
  ASSERT_NE(at, std::string::npos) << body;
  EXPECT_LT(at, body.find(R"("reasoning_content":"I)")) << body;
  EXPECT_EQ(ParseStream(body).content, RouterHarness::kContent) << "a comment is nothing to a client";
  const Reply whole = router.Chat();
  ExpectAnswer(whole);
  EXPECT_THAT(whole.body(), Not(HasSubstr("prefill")));
}

TEST(HttpApi, AnAnswerInOnePieceIsNotSilentWhileItWaitsForItsWorker) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.queue_timeout = config.keep_alive_interval = absl::Milliseconds(100);
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;  // accepted, and not begun
  RouterHarness router(1, config, held);
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/chat/completions", ChatBody()));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n1\r\n\n\r\n"), HasSubstr("200 OK"));
  router.workers[0]->Release();
  EXPECT_THAT(client.ReadUntil("\r\n0\r\n\r\n"), HasSubstr(RouterHarness::kContent));
}

TEST(HttpApi, AWorkerThatDiesMidStreamChangesNothingForTheClient) {
  RouterHarness router(2);
  const std::string expected = router.Chat(R"("seed":1)").body();
  for (const uint32_t fails_at : {0u, 1u, 5u, 9u}) {
    Script dying{RouterHarness::AnswerTokens()};
    dying.fails_at = fails_at;
    router.workers[0]->SetScript(dying);
    router.workers[1]->SetScript({RouterHarness::AnswerTokens()});
    for (int i = 0; i < 2; ++i) {  // one of the two lands on the dying worker
      const StreamedText text = ParseStream(router.Chat(R"("stream":true)").body());
      EXPECT_EQ(text.reasoning, RouterHarness::kReasoning) << "died at " << fails_at;
      EXPECT_EQ(text.content, RouterHarness::kContent) << "died at " << fails_at;
      EXPECT_TRUE(text.done);
      EXPECT_EQ(text.n_errors, 0u);
    }
  }
  EXPECT_THAT(router.Metrics(), Not(HasSubstr("longshelf_router_resumes_total 0\n")));
  EXPECT_THAT(router.Metrics(), Not(HasSubstr("longshelf_router_retries_total 0\n")));
}

TEST(HttpApi, StopStringsEndTheStreamAndTheWorkersWork) {
  RouterHarness router;
  const Reply reply = router.Chat(R"("stream":true,"stop":["is 42, ca"])");
  const StreamedText text = ParseStream(reply.body());
  EXPECT_EQ(text.content, "The answer ");
  EXPECT_EQ(text.finish_reason, "stop");
  EXPECT_TRUE(text.done);
}

TEST(HttpApi, ServesSeveralChoicesWithSeedsOfTheirOwn) {
  RouterHarness router(2);
  const Json json = Parsed(router.Chat(R"("n":3,"seed":5)"));
  ASSERT_EQ(json["choices"].size(), 3u);
  for (const Json& choice : json["choices"]) EXPECT_EQ(choice["message"]["content"], RouterHarness::kContent);
  std::set<uint64_t> seeds;
  for (const auto& worker : router.workers) {
    for (const auto& request : worker->requests()) seeds.insert(request.sampling().seed());
  }
  EXPECT_EQ(seeds.size(), 3u);
  EXPECT_TRUE(seeds.contains(5));
}

TEST(HttpApi, PassesSamplingAndLimitsOn) {
  RouterHarness router;
  router.Chat(R"("temperature":0.5,"top_p":0.9,"top_k":7,"min_p":0.1,"seed":-1,"presence_penalty":1,
                 "frequency_penalty":-2,"logprobs":true,"top_logprobs":4,"max_tokens":3,"stop_token_ids":[9])");
  const auto requests = router.workers[0]->requests();
  ASSERT_EQ(requests.size(), 1u);
  const auto& sampling = requests[0].sampling();
  EXPECT_EQ(sampling.temperature(), 0.5);
  EXPECT_EQ(sampling.top_p(), 0.9);
  EXPECT_EQ(sampling.top_k(), 7u);
  EXPECT_EQ(sampling.min_p(), 0.1);
  EXPECT_EQ(sampling.seed(), ~uint64_t{0});
  EXPECT_EQ(sampling.presence_penalty(), 1);
  EXPECT_EQ(sampling.frequency_penalty(), -2);
  EXPECT_EQ(sampling.n_top_logprobs(), 4u);
  EXPECT_EQ(requests[0].max_tokens(), 3u);
  EXPECT_EQ(requests[0].stop_token_ids_size(), 2);
  EXPECT_EQ(requests[0].namespace_salt().size(), 32u);
}

TEST(HttpApi, ACallThatWasDemandedIsAFormOfTheOutput) {
  const std::string call =
      "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n"
      "<｜DSML｜parameter name=\"city\" string=\"true\">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
      "</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  RouterHarness router;
  for (const bool thinks : {true, false}) {
    for (const std::string choice : {R"({"type":"function","function":{"name":"get_weather"}})", R"("required")"}) {
      const std::vector<uint32_t> sampled = RouterHarness::Tokens((thinks ? "Rain?</think>" : "") + call);
      router.workers[0]->SetScript({sampled});
      const std::string extra =
          absl::StrCat(R"("thinking":{"type":")", thinks ? "enabled" : "disabled",
                       R"("},"tools":[{"type":"function","function":{"name":"get_weather"}},)",
                       R"({"type":"function","function":{"name":"other"}}],"tool_choice":)", choice);
      const Json json = Parsed(router.Chat(extra));
      const Json answer = json["choices"][0];
      EXPECT_EQ(answer["finish_reason"], "tool_calls") << json;
      EXPECT_EQ(answer["message"]["content"], "");
      ASSERT_EQ(answer["message"]["tool_calls"].size(), 1u) << json;
      const Json function = answer["message"]["tool_calls"][0]["function"];
      EXPECT_EQ(function["name"], "get_weather");
      EXPECT_EQ(Json::parse(function["arguments"].get<std::string>()), Json({{"city", "Oslo"}}));
      const auto request = router.workers[0]->requests().back();
      const v1::OutputForm& form = request.output_form();
      const bool is_named = choice[0] == '{';
      EXPECT_EQ(form.after_thinking(), thinks);
      EXPECT_EQ(form.calls(), v1::OutputForm::CALLS_REQUIRED);
      EXPECT_EQ(form.n_calls_max(), is_named ? 1u : 128u);
      ASSERT_EQ(form.tools_size(), is_named ? 1 : 2);
      EXPECT_EQ(form.tools(0).name(), "get_weather");
      EXPECT_EQ(form.tools(0).parameters(), "");
      const StreamedText streamed = ParseStream(router.Chat(extra + R"(,"stream":true)").body());
      EXPECT_EQ(streamed.tool_name, "get_weather");
      EXPECT_EQ(streamed.tool_arguments, function["arguments"].get<std::string>());
      EXPECT_EQ(streamed.finish_reason, "tool_calls");
      EXPECT_TRUE(streamed.done);
    }
  }
}

TEST(HttpApi, ASchemaThatCannotBeEnforcedIsRefusedByItsKeywordBeforeAnyWorkerHearsOfIt) {
  RouterHarness router;
  const Reply refused = router.Chat(
      R"("response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object",
         "properties":{"a":{"type":"array","uniqueItems":true}}}}})");
  EXPECT_EQ(refused.result_int(), 400u);
  const Json error = Json::parse(refused.body())["error"];
  EXPECT_EQ(error["param"], "response_format.json_schema.schema");
  EXPECT_THAT(error["message"].get<std::string>(),
              ::testing::HasSubstr("\"uniqueItems\" (at /properties/a/uniqueItems)"));
  EXPECT_TRUE(router.workers[0]->requests().empty());
}

TEST(HttpApi, CompletesTextAndTokens) {
  RouterHarness router;
  const Json text = Parsed(router.Do("POST", "/v1/completions", R"({"prompt":"Hi","max_tokens":4,"echo":true})"));
  EXPECT_EQ(text["object"], "text_completion");
  EXPECT_THAT(text["choices"][0]["text"].get<std::string>(), ::testing::StartsWith("Hi"));
  EXPECT_EQ(text["choices"][0]["finish_reason"], "length");
  const Json tokens = Parsed(router.Do("POST", "/completions", R"({"prompt":[5,6,7],"logprobs":1})"));
  EXPECT_EQ(tokens["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(tokens["choices"][0]["logprobs"]["tokens"].size(), RouterHarness::AnswerTokens().size());
}

TEST(HttpApi, ListsItsModel) {
  RouterHarness router;
  EXPECT_EQ(Parsed(router.Do("GET", "/v1/models"))["data"][0]["id"], "demo");
  EXPECT_EQ(Parsed(router.Do("GET", "/models/demo"))["id"], "demo");
  EXPECT_EQ(router.Do("GET", "/v1/models/gpt").result_int(), 404u);
  const Json missing = Parsed(router.Chat(R"("model":"gpt")"));
  EXPECT_EQ(missing["error"]["code"], "model_not_found");
}

TEST(HttpApi, ErrorsHaveTheOpenAiShapeAndNameFieldAndLimit) {
  RouterHarness router;
  const Reply reply = router.Chat(R"("n":17)");
  EXPECT_EQ(reply.result_int(), 400u);
  const Json error = Parsed(reply)["error"];
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["param"], "n");
  EXPECT_TRUE(error.contains("code"));
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("16"));
  EXPECT_THAT(reply.body(), Not(HasSubstr("127.0.0.1")));
}

TEST(HttpApi, APromptBeyondTheContextIsRefusedByName) {
  RouterHarness router;
  router.Chat();  // a worker has said how much it takes: 8192
  std::string words;
  for (int i = 0; i < 9000; ++i) words += " word";
  const Reply reply = router.Do("POST", "/v1/completions", absl::StrCat(R"({"prompt":")", words, "\"}"));
  EXPECT_EQ(reply.result_int(), 400u);
  EXPECT_EQ(Parsed(reply)["error"]["code"], "context_length_exceeded");
}

std::string BodyFor(Route::Kind kind) {
  switch (kind) {
    case Route::Kind::kCompletions:
      return R"({"prompt":"x","max_tokens":1})";
    case Route::Kind::kMessages:
    case Route::Kind::kCountTokens:
      return ChatBody(R"("model":"claude-x","max_tokens":9)");
    case Route::Kind::kResponses:
      return R"({"input":"x"})";
    default:
      return ChatBody();
  }
}

TEST(HttpApi, SEC_10_EveryRouteNeedsAKeyButTheProbes) {
  const auto dir = longshelf::testing::MakeTempDir("router-keys");
  RouterConfig config = RouterHarness::DefaultConfig();
  config.api_keys_file = (dir / "keys").string();
  FILE* file = fopen(config.api_keys_file.c_str(), "w");
  ASSERT_NE(file, nullptr);
  fputs("alice:sk-alice\n", file);
  fclose(file);
  RouterHarness router(1, config);
  for (const Route& route : Routes()) {
    std::string path(route.path);
    if (route.prefix) path += "demo";
    const std::string method(route.method);
    const std::string sent = method == "POST" ? BodyFor(route.kind) : "";
    EXPECT_EQ(router.Do(method, path, sent).result_int() == 401, !route.exempt) << method << " " << path;
    EXPECT_EQ(router.Do(method, path, sent, {{"Authorization", "Bearer sk-bob"}}).result_int() == 401, !route.exempt);
    const unsigned status = router.Do(method, path, sent, {{"Authorization", "Bearer sk-alice"}}).result_int();
    const bool has_answer = path.find("/sessions") == std::string::npos;  // there are none, and nowhere to keep them
    const bool needs_store = route.kind == Route::Kind::kSessions || route.kind == Route::Kind::kDropCache;
    EXPECT_EQ(status, needs_store ? 501u : has_answer ? 200u : 404u) << path;
    for (const char* other : {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"}) {
      if (other == method) continue;
      TestClient client(router.service->http_port());
      client.Send(RequestText(other, path, "", {{"Connection", "close"}}));
      const bool is_probe = route.exempt && other == std::string("HEAD");
      EXPECT_THAT(client.ReadUntil("\r\n"), HasSubstr(is_probe ? " 200 " : " 401 ")) << other << " " << path;
    }
  }
}

TEST(HttpApi, SEC_11_NoFormOfAPathGetsAroundTheKey) {
  const auto dir = longshelf::testing::MakeTempDir("router-keys");
  RouterConfig config = RouterHarness::DefaultConfig();
  config.api_keys_file = (dir / "keys").string();
  FILE* file = fopen(config.api_keys_file.c_str(), "w");
  ASSERT_NE(file, nullptr);
  fputs("alice:sk-alice\n", file);
  fclose(file);
  RouterHarness router(1, config);
  for (const char* target : {"//v1/models",
                             "/v1//models",
                             "/v1/../v1/models",
                             "/livez/../v1/models",
                             "/livez/v1/models",
                             "/%2e/v1/models",
                             "/v1/%6dodels",
                             "/v1/models/",
                             "/v1/models?x=/livez",
                             "/livez%2f..%2fv1/models",
                             "http://localhost/v1/models",
                             "http://localhost/livez",
                             "/v1/models#/livez",
                             "\\v1\\models",
                             "/v1\\models",
                             "/livez;/v1/models",
                             "/livez/",
                             "/LIVEZ",
                             "/readyz/x",
                             "/v1/models%00",
                             "/healthz%20",
                             "*",
                             "localhost:80",
                             "/.",
                             "/..",
                             "/v1",
                             "/v1/",
                             "/metrics",
                             "/admin",
                             "/debug",
                             "/v1/embeddings",
                             "/v1/files",
                             "/invocations",
                             "/tokenize",
                             "/ping",
                             "/pause",
                             "/v1/chat/completions/",
                             "/v1/chat",
                             "/V1/models",
                             "/v1/models/../../livez"}) {
    TestClient client(router.service->http_port());
    client.Send(absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    const std::string reply = client.ReadUntil("\r\n");
    EXPECT_TRUE(reply.starts_with("HTTP/1.1 4")) << target << ": " << reply.substr(0, 40);
  }
}

TEST(HttpApi, SixteenStreamsAtOnceGetTheirOwnText) {
  RouterHarness router(2);
  std::vector<std::future<StreamedText>> streams;
  for (int i = 0; i < 16; ++i) {
    streams.push_back(
        std::async(std::launch::async, [&] { return ParseStream(router.Chat(R"("stream":true)").body()); }));
  }
  for (auto& stream : streams) {
    const StreamedText text = stream.get();
    EXPECT_EQ(text.content, RouterHarness::kContent);
    EXPECT_EQ(text.reasoning, RouterHarness::kReasoning);
    EXPECT_TRUE(text.done);
  }
}

TEST(HttpApi, ASilentStreamHasHeadersSoonAndCommentsAfterwards) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.keep_alive_interval = absl::Milliseconds(100);
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  RouterHarness router(1, config, held);
  TestClient client(router.service->http_port());
  const absl::Time begun = router.clock.Now();
  client.Send(RequestText("POST", "/v1/chat/completions", ChatBody(R"("stream":true)")));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("200 OK"));
  EXPECT_LT(router.clock.Now() - begun, absl::Seconds(1));
  EXPECT_THAT(client.ReadUntil(": keep-alive\n\n\r\n"), HasSubstr(": keep-alive"));
  ASSERT_TRUE(router.workers[0]->AwaitCalls(1));
  router.workers[0]->Release();
  EXPECT_THAT(client.ReadUntil("data: [DONE]"), HasSubstr("data: [DONE]"));
}

TEST(HttpApi, AnAnswerInOnePieceThatTakesLongHasBlankLinesInFront) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.keep_alive_interval = absl::Milliseconds(100);
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  held.begins_held = true;
  RouterHarness router(1, config, held);
  TestClient raw(router.service->http_port());
  TestClient client(router.service->http_port());
  const std::string request = RequestText("POST", "/v1/chat/completions", ChatBody());
  client.Send(request);
  raw.Send(request);
  const std::string head = raw.ReadUntil("1\r\n\n\r\n1\r\n\n\r\n");
  EXPECT_THAT(head, HasSubstr("200 OK"));
  EXPECT_THAT(head, HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_THAT(head, HasSubstr("x-request-id: "));
  ASSERT_TRUE(router.workers[0]->AwaitCalls(2));
  router.workers[0]->Release();
  const Reply reply = client.Read();
  EXPECT_TRUE(reply.body().starts_with("\n")) << reply.body();
  ExpectAnswer(reply);
  EXPECT_THAT(raw.ReadUntil("}\r\n0\r\n\r\n"), HasSubstr(R"("finish_reason":"stop")"));
  // The connection goes on.
  client.Send(request);
  ExpectAnswer(client.Read());
}

TEST(HttpApi, AnErrorBehindBlankLinesIsToldInTheBodyAndClosesTheConnection) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.keep_alive_interval = absl::Milliseconds(100);
  config.queue_timeout = absl::Milliseconds(400);
  Script breaks{RouterHarness::AnswerTokens()};
  breaks.held = true;
  breaks.begins_held = true;
  breaks.fails_at = 0;
  RouterHarness router(1, config, breaks);
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/chat/completions", ChatBody()));
  EXPECT_THAT(client.ReadUntil("1\r\n\n\r\n"), HasSubstr("200 OK"));
  router.workers[0]->Release();
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr(R"("error":)"));
  EXPECT_TRUE(client.IsClosed());
  EXPECT_THAT(router.Metrics(), HasSubstr("code=\"503\""));
}

TEST(HttpApi, AnAnswerInOnePieceThatNoWorkerBeginsKeepsItsStatus) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.keep_alive_interval = absl::Milliseconds(100);
  config.queue_timeout = absl::Milliseconds(400);
  RouterHarness router(0, config);
  const Reply reply = router.Chat();
  EXPECT_EQ(reply.result_int(), 503u);
  EXPECT_EQ(Parsed(reply)["error"]["code"], "no_workers");
}

TEST(HttpApi, AClientThatLeavesCancelsItsSequence) {
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  RouterHarness router(1, RouterHarness::DefaultConfig(), held);
  for (const char* extra : {R"("stream":true)", R"("stream":false)"}) {
    const size_t n = router.workers[0]->requests().size();
    TestClient client(router.service->http_port());
    client.Send(RequestText("POST", "/v1/chat/completions", ChatBody(extra)));
    ASSERT_TRUE(router.workers[0]->AwaitCalls(n + 1));
    client.Close();
    EXPECT_TRUE(router.workers[0]->AwaitCancelled(n + 1));
  }
}

TEST(HttpApi, AClientThatDoesNotReadIsBoundedAndDisturbsNobody) {
  Script endless{std::vector<uint32_t>(7000, 43)};
  RouterHarness router(1, RouterHarness::DefaultConfig(), endless);
  TestClient slow(router.service->http_port());
  slow.Send(RequestText("POST", "/v1/chat/completions", ChatBody(R"("stream":true,"n":16)")));
  ASSERT_TRUE(router.workers[0]->AwaitCalls(16));
  router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  ExpectAnswer(router.Chat());
  // 16 x 7000 events of about 200 bytes do not fit into what the kernel and the router hold for one client.
  EXPECT_LT(router.workers[0]->n_tokens_sent(), 16u * 7000u);
  slow.Close();
  EXPECT_TRUE(router.workers[0]->AwaitCancelled(1));
}

TEST(HttpApi, WithoutAWorkerTheAnswerIsATyped503) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.queue_timeout = absl::Milliseconds(100);
  RouterHarness router(0, config);
  const Reply reply = router.Chat();
  EXPECT_EQ(reply.result_int(), 503u);
  EXPECT_FALSE(reply["Retry-After"].empty());
  EXPECT_EQ(Parsed(reply)["error"]["code"], "no_workers");
  EXPECT_EQ(router.Do("GET", "/readyz").result_int(), 503u);
  EXPECT_EQ(router.Do("GET", "/livez").result_int(), 200u);
}

TEST(HttpApi, FullWorkersAreATyped503) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.queue_timeout = absl::Milliseconds(300);
  Script full;
  full.full = true;
  RouterHarness router(2, config, full);
  const Reply reply = router.Chat();
  EXPECT_EQ(reply.result_int(), 503u);
  EXPECT_EQ(Parsed(reply)["error"]["code"], "overloaded");
}

TEST(HttpApi, DrainingFinishesWhatWasBegunAndRefusesTheRest) {
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  RouterHarness router(1, RouterHarness::DefaultConfig(), held);
  TestClient begun(router.service->http_port());
  begun.Send(RequestText("POST", "/v1/chat/completions", ChatBody()));
  ASSERT_TRUE(router.workers[0]->AwaitCalls(1));
  std::promise<void> drained;
  router.service->BeginDrain([&] { drained.set_value(); });
  EXPECT_EQ(router.Do("GET", "/readyz").result_int(), 503u);
  const Reply refused = router.Chat();
  EXPECT_EQ(refused.result_int(), 503u);
  EXPECT_EQ(Parsed(refused)["error"]["code"], "draining");
  router.workers[0]->Release();
  ExpectAnswer(begun.Read());
  begun.Close();
  EXPECT_EQ(drained.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

}  // namespace
}  // namespace longshelf::router::testing
