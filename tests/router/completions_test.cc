// Text completions over HTTP: lists of prompts, echoes with their logprobs, what goes to the workers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router_harness.h"

namespace longshelf::router::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Complete(RouterHarness& router, const std::string& fields, const std::string& path = "/v1/completions") {
  const Reply reply = router.Do("POST", path, "{" + fields + "}");
  EXPECT_EQ(reply.result_int(), 200u) << reply.body();
  return Json::parse(reply.body(), nullptr, false);
}

// What the chunks of a stream add up to, by choice.
std::map<int, Json> Joined(const std::string& body) {
  std::map<int, Json> choices;
  for (const auto line : absl::StrSplit(body, '\n')) {
    if (line.substr(0, 7) != "data: {") continue;
    const Json chunk = Json::parse(line.substr(6), nullptr, false);
    for (const Json& choice : chunk["choices"]) {
      Json& whole = choices[choice["index"].get<int>()];
      if (whole.is_null()) whole = {{"text", ""}, {"logprobs", Json::object()}, {"finish_reason", nullptr}};
      whole["text"] = whole["text"].get<std::string>() + choice["text"].get<std::string>();
      if (!choice["finish_reason"].is_null()) whole["finish_reason"] = choice["finish_reason"];
      if (choice["logprobs"].is_null()) continue;
      for (const auto& [name, list] : choice["logprobs"].items()) {
        if (whole["logprobs"][name].is_null()) whole["logprobs"][name] = Json::array();
        for (const Json& entry : list) whole["logprobs"][name].push_back(entry);
      }
    }
  }
  return choices;
}

TEST(Completions, GiveEveryPromptAChoiceOfItsOwnInOrder) {
  RouterHarness router(2);
  const Json json =
      Complete(router, R"("prompt":["One","Two","Three and more"],"n":2,"max_tokens":3,"echo":true,"seed":9)");
  ASSERT_EQ(json["choices"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    const char* prompt = i < 2 ? "One" : i < 4 ? "Two" : "Three and more";
    EXPECT_THAT(json["choices"][i]["text"].get<std::string>(), ::testing::StartsWith(prompt));
    EXPECT_EQ(json["choices"][i]["finish_reason"], "length");
  }
  size_t n_prompt_tokens = 0;
  for (const char* prompt : {"One", "Two", "Three and more"}) n_prompt_tokens += RouterHarness::Tokens(prompt).size();
  EXPECT_EQ(json["usage"]["prompt_tokens"], n_prompt_tokens) << "each once, whatever n";
  EXPECT_EQ(json["usage"]["completion_tokens"], 18);
  // Choice i of a prompt draws as choice i of any other does.
  std::map<uint64_t, int> seeds;
  for (const auto& worker : router.workers) {
    for (const auto& request : worker->requests()) ++seeds[request.sampling().seed()];
  }
  EXPECT_EQ(seeds.size(), 2u);
  EXPECT_EQ(seeds[9], 3);
}

TEST(Completions, OfManyPromptsRunAFewAtATime) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {.tokens = RouterHarness::AnswerTokens(), .held = true});
  std::string prompts;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&prompts, i > 0 ? "," : "", "[5,", i, "]");
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/completions", "{\"prompt\":[" + prompts + "],\"max_tokens\":2}"));
  FakeWorker& worker = *router.workers[0];
  ASSERT_TRUE(worker.AwaitCalls(16));
  EXPECT_EQ(worker.requests().size(), 16u);
  worker.Release();
  const Json json = Json::parse(client.Read().body(), nullptr, false);
  ASSERT_EQ(json["choices"].size(), 40u);
  EXPECT_EQ(worker.requests().size(), 40u);
  EXPECT_EQ(json["usage"]["prompt_tokens"], 80);
}

TEST(Completions, TellHowLikelyThePromptWas) {
  RouterHarness router;
  const std::string prompt = "café ☕ now";
  const std::vector<uint32_t> ids = RouterHarness::Tokens(prompt);
  ASSERT_GT(ids.size(), 3u);
  const Json json =
      Complete(router, R"("prompt":")" + prompt + R"(","echo":true,"logprobs":1,"max_tokens":1,"temperature":0)");
  const Json& choice = json["choices"][0];
  EXPECT_THAT(choice["text"].get<std::string>(), ::testing::StartsWith(prompt));
  const Json& logprobs = choice["logprobs"];
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    ASSERT_EQ(logprobs[list].size(), ids.size() + 1) << list;
  }
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  EXPECT_EQ(logprobs["text_offset"][ids.size()], 10) << "code points, not bytes";
  for (size_t i = 1; i < ids.size(); ++i) {
    EXPECT_EQ(logprobs["token_logprobs"][i], -static_cast<double>(i));
    EXPECT_EQ(logprobs["top_logprobs"][i][logprobs["tokens"][i].get<std::string>()], -static_cast<double>(i));
  }
  EXPECT_EQ(logprobs["token_logprobs"][ids.size()], -0.25);
  const auto request = router.workers[0]->requests().at(0);
  EXPECT_TRUE(request.prompt_logprobs());
  EXPECT_EQ(request.sampling().n_top_logprobs(), 1u);
}

TEST(Completions, StreamTheSameAsInOnePieceAlsoWhenAWorkerDiesInThePrompt) {
  const std::string fields = R"("prompt":["One two three four five","[6,7]"],"n":2,"echo":true,"logprobs":2,"seed":1)";
  RouterHarness calm;
  const Json whole = Complete(calm, fields);
  for (const bool dies : {false, true}) {
    RouterHarness router(2);
    if (dies) {
      for (auto& worker : router.workers) {
        worker->SetScript({.tokens = RouterHarness::AnswerTokens(), .fails_at = 4, .fails_at_scored = 3});
      }
      router.workers[1]->SetScript({.tokens = RouterHarness::AnswerTokens()});
    }
    const Reply reply = router.Do("POST", "/v1/completions", "{" + fields + R"(,"stream":true})");
    const std::map<int, Json> streamed = Joined(reply.body());
    ASSERT_EQ(streamed.size(), 4u) << reply.body();
    for (const auto& [index, choice] : streamed) {
      const Json& expected = whole["choices"][static_cast<size_t>(index)];
      EXPECT_EQ(choice["text"], expected["text"]);
      EXPECT_EQ(choice["logprobs"], expected["logprobs"]) << "choice " << index << (dies ? ", moved" : "");
      EXPECT_EQ(choice["finish_reason"], expected["finish_reason"]);
    }
    EXPECT_THAT(reply.body(), HasSubstr("data: [DONE]"));
    EXPECT_FALSE(router.workers[0]->requests().empty());
    EXPECT_EQ(router.workers[0]->requests().size() + router.workers[1]->requests().size() > 4, dies);
  }
}

TEST(Completions, WithoutOutputAreThePromptAlone) {
  RouterHarness router;
  const Json scored = Complete(router, R"("prompt":[5,6,7],"echo":true,"logprobs":0,"max_tokens":0)");
  EXPECT_EQ(scored["choices"][0]["logprobs"]["token_logprobs"], Json({nullptr, -1.0, -2.0}));
  EXPECT_EQ(scored["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(scored["usage"]["completion_tokens"], 0);
  const Json one = Complete(router, R"("prompt":[5],"echo":true,"logprobs":0,"max_tokens":0)");
  EXPECT_EQ(one["choices"][0]["logprobs"]["token_logprobs"], Json({nullptr}));
  const Json echoed = Complete(router, R"("prompt":"Hi there","echo":true,"max_tokens":0)");
  EXPECT_EQ(echoed["choices"][0]["text"], "Hi there");
  EXPECT_TRUE(echoed["choices"][0]["logprobs"].is_null());
}

TEST(Completions, AnEchoThatIsTooMuchForOnePieceIsRefusedByName) {
  RouterHarness router;
  std::string ids = "5";
  for (int i = 1; i < 4100; ++i) ids += ",5";
  std::string prompts = "[" + ids + "]";
  for (int i = 1; i < 8; ++i) prompts += ",[" + ids + "]";
  const std::string fields = "\"prompt\":[" + prompts + R"(],"echo":true,"logprobs":0,"max_tokens":1)";
  const Reply reply = router.Do("POST", "/v1/completions", "{" + fields + "}");
  EXPECT_EQ(reply.result_int(), 400u);
  EXPECT_THAT(reply.body(), HasSubstr("32768"));
  EXPECT_THAT(reply.body(), HasSubstr("\"param\":\"echo\""));
}

TEST(Completions, ReturnTheLikeliestOfWhatIsGenerated) {
  RouterHarness router;
  const std::string fields = R"("prompt":["a b","c"],"n":1,"best_of":3,"max_tokens":2,"seed":4,"echo":true)";
  Complete(router, fields);
  FakeWorker& worker = *router.workers[0];
  ASSERT_EQ(worker.requests().size(), 6u);
  // The third candidate of each prompt becomes the likeliest.
  worker.SetScript({.tokens = RouterHarness::AnswerTokens(), .likely_seed = worker.requests()[2].sampling().seed()});
  const Json json = Complete(router, fields + R"(,"logprobs":0)");
  ASSERT_EQ(json["choices"].size(), 2u);
  EXPECT_EQ(json["usage"]["completion_tokens"], 12) << "all that was generated";
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_THAT(json["choices"][i]["text"].get<std::string>(), ::testing::StartsWith(i == 0 ? "a b" : "c"));
    EXPECT_EQ(json["choices"][i]["logprobs"]["token_logprobs"].back(), -0.125);
    EXPECT_EQ(json["choices"][i]["finish_reason"], "length");
  }
}

TEST(Completions, TellOfTheTokenThatEndsThemToo) {
  RouterHarness router;
  const Json json = Complete(router, R"("prompt":"Hi","logprobs":0)");
  EXPECT_EQ(json["choices"][0]["logprobs"]["tokens"].size(), RouterHarness::AnswerTokens().size());
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
}

TEST(Completions, PassBiasesAndSeedsOn) {
  RouterHarness router;
  Complete(router, R"("prompt":"Hi","max_tokens":1,"seed":-1,"logit_bias":{"70":-100,"5":1.5})");
  const auto request = router.workers[0]->requests().at(0);
  EXPECT_EQ(request.sampling().seed(), ~uint64_t{0});
  ASSERT_EQ(request.sampling().logit_bias_size(), 2);
  EXPECT_EQ(request.sampling().logit_bias(0).token(), 5u);
  EXPECT_EQ(request.sampling().logit_bias(0).bias(), 1.5F);
  EXPECT_EQ(request.sampling().logit_bias(1).token(), 70u);
  EXPECT_EQ(request.sampling().logit_bias(1).bias(), -100.0F);
}

TEST(Completions, ASuffixNeedsAVocabularyThatHasTheTokens) {
  RouterHarness router;
  const Reply reply = router.Do("POST", "/beta/completions", R"({"prompt":"a","suffix":"b"})");
  EXPECT_EQ(reply.result_int(), 400u);
  for (const char* word : {"\"param\":\"suffix\"", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "demo"}) {
    EXPECT_THAT(reply.body(), HasSubstr(word));
  }
}

TEST(Completions, DeepSeeksBetaPathsAreServed) {
  RouterHarness router;
  EXPECT_EQ(Complete(router, R"("prompt":"Hi","max_tokens":1)", "/beta/completions")["object"], "text_completion");
  const Reply chat = router.Do("POST", "/beta/chat/completions",
                               R"({"messages":[{"role":"user","content":"x"},
                                   {"role":"assistant","reasoning_content":"Hm.","content":"On","prefix":true}]})");
  EXPECT_EQ(chat.result_int(), 200u) << chat.body();
  const auto request = router.workers[0]->requests().back();
  const std::vector<uint32_t> prompt(request.prompt_tokens().begin(), request.prompt_tokens().end());
  const std::vector<uint32_t> end = RouterHarness::Tokens("<think>Hm.</think>On");
  ASSERT_GT(prompt.size(), end.size());
  EXPECT_TRUE(std::equal(end.begin(), end.end(), prompt.end() - static_cast<std::ptrdiff_t>(end.size())));
  EXPECT_EQ(router.Do("GET", "/beta/models").result_int(), 200u);
}

TEST(Models, ANameMayHaveSlashesHoweverThePathIsWritten) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.model_name = "deepseek-ai/DeepSeek-V4-Flash";
  RouterHarness router(1, config);
  for (const char* path : {"/v1/models/deepseek-ai%2FDeepSeek-V4-Flash", "/v1/models/deepseek-ai/DeepSeek-V4-Flash",
                           "/models/deepseek-ai%2fDeepSeek%2dV4-Flash", "/beta/models/deepseek-ai/DeepSeek-V4-Flash"}) {
    const Reply reply = router.Do("GET", path);
    ASSERT_EQ(reply.result_int(), 200u) << path << ": " << reply.body();
    EXPECT_EQ(Json::parse(reply.body(), nullptr, false)["id"], "deepseek-ai/DeepSeek-V4-Flash");
  }
  for (const char* path : {"/v1/models/DeepSeek-V4-Flash", "/v1/models/deepseek-ai", "/v1/models/deepseek-ai%252FX"}) {
    EXPECT_EQ(router.Do("GET", path).result_int(), 404u) << path;
  }
}

}  // namespace
}  // namespace longshelf::router::testing
