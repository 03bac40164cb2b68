#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router_harness.h"

// /v1/messages through the whole router, over a worker that answers what it is told.
namespace longshelf::router {
namespace {

using testing::RouterHarness;
using Json = nlohmann::ordered_json;

constexpr char kAnswer[] =
    "Let me think.</think>I look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"read\">\n<｜DSML｜parameter "
    "name=\"path\" string=\"true\">a.cc</｜DSML｜parameter>\n<｜DSML｜parameter name=\"lines\" "
    "string=\"false\">[1, 20]</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"list\">\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>";

std::string Body(const std::string& extra = "") {
  return absl::StrCat(R"({"model":"claude-sonnet-4-5","max_tokens":1000,"messages":[{"role":"user","content":"hi"}])",
                      extra.empty() ? "" : ",", extra, "}");
}
constexpr char kThinking[] = R"("thinking":{"type":"enabled","budget_tokens":1024})";

struct Event {
  std::string name;
  Json data;
};
std::vector<Event> EventsOf(const std::string& body) {
  std::vector<Event> events;
  for (const absl::string_view block : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    if (block.front() == ':') continue;
    const std::pair<absl::string_view, absl::string_view> lines = absl::StrSplit(block, absl::MaxSplits('\n', 1));
    EXPECT_EQ(lines.first.substr(0, 7), "event: ");
    EXPECT_EQ(lines.second.substr(0, 6), "data: ");
    events.push_back({std::string(lines.first.substr(7)), Json::parse(lines.second.substr(6))});
    EXPECT_EQ(events.back().name, events.back().data["type"]);
  }
  return events;
}

// The message that a client puts together from a stream, as Anthropic's documentation says.
Json MessageOf(const std::vector<Event>& events) {
  Json message;
  std::vector<std::string> inputs;
  for (const auto& [name, data] : events) {
    if (name == "message_start") message = data["message"];
    if (name == "content_block_start") {
      EXPECT_EQ(data["index"], message["content"].size());
      message["content"].push_back(data["content_block"]);
      inputs.emplace_back();
    }
    if (name == "content_block_delta") {
      Json& block = message["content"][data["index"].get<size_t>()];
      const std::string type = data["delta"]["type"];
      const auto add = [&](const char* field) {
        block[field] = block[field].get<std::string>() + data["delta"][field].get<std::string>();
      };
      if (type == "text_delta") add("text");
      if (type == "thinking_delta") add("thinking");
      if (type == "signature_delta") add("signature");
      if (type == "input_json_delta") inputs.back() += data["delta"]["partial_json"].get<std::string>();
    }
    if (name == "content_block_stop" && !inputs.back().empty()) {
      message["content"].back()["input"] = Json::parse(inputs.back());
    }
    if (name == "message_delta") {
      message["stop_reason"] = data["delta"]["stop_reason"];
      message["stop_sequence"] = data["delta"]["stop_sequence"];
      message["usage"] = data["usage"];
    }
  }
  return message;
}

TEST(Messages, AnswersInBlocksStreamedOrWhole) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::Tokens(kAnswer)});
  const auto whole = router.Do("POST", "/v1/messages", Body(kThinking), {{"x-api-key", "any"}});
  ASSERT_EQ(whole.result_int(), 200u) << whole.body();
  EXPECT_FALSE(std::string(whole["request-id"]).empty());
  Json message = Json::parse(whole.body());
  EXPECT_EQ(message["type"], "message");
  EXPECT_EQ(message["role"], "assistant");
  EXPECT_EQ(message["stop_reason"], "tool_use");
  EXPECT_EQ(message["usage"]["input_tokens"].get<int>(), 5);
  ASSERT_EQ(message["content"].size(), 4u) << whole.body();
  EXPECT_EQ(message["content"][0]["thinking"], "Let me think.");
  EXPECT_EQ(message["content"][1]["text"], "I look.");
  EXPECT_EQ(message["content"][2]["input"], Json::parse(R"({"path": "a.cc", "lines": [1, 20]})"));
  EXPECT_EQ(message["content"][3]["name"], "list");

  const auto streamed = router.Do("POST", "/anthropic/v1/messages", Body(absl::StrCat(kThinking, R"(,"stream":true)")));
  const std::vector<Event> events = EventsOf(streamed.body());
  ASSERT_GT(events.size(), 10u);
  EXPECT_EQ(events[0].name, "message_start");
  EXPECT_EQ(events[1].name, "ping");
  EXPECT_EQ(events[events.size() - 2].name, "message_delta");
  EXPECT_EQ(events.back().name, "message_stop");
  Json joined = MessageOf(events);
  for (Json* each : {&message, &joined}) {
    each->erase("id");
    for (Json& block : (*each)["content"]) block.erase("id");
  }
  EXPECT_EQ(joined, message);

  // What came comes back.
  const Json turn = {{"role", "assistant"}, {"content", message["content"]}};
  Json request = Json::parse(Body(kThinking));
  request["messages"].push_back(turn);
  int n = 0;
  Json results = Json::array();
  for (Json& block : request["messages"].back()["content"]) {
    if (block["type"] != "tool_use") continue;
    block["id"] = absl::StrCat("toolu_", n++);
    results.push_back({{"type", "tool_result"}, {"tool_use_id", block["id"]}, {"content", "done"}});
  }
  request["messages"].push_back({{"role", "user"}, {"content", results}});
  const auto next = router.Do("POST", "/v1/messages", request.dump());
  EXPECT_EQ(next.result_int(), 200u) << next.body();
}

TEST(Messages, SaysWhatEndedTheAnswer) {
  RouterHarness router(1, RouterHarness::DefaultConfig(),
                       {RouterHarness::Tokens("One, two, three.<｜end▁of▁sentence｜>")});
  const auto ask = [&](const std::string& extra) {
    return Json::parse(router.Do("POST", "/v1/messages", Body(extra)).body());
  };
  EXPECT_EQ(ask("")["stop_reason"], "end_turn");
  EXPECT_EQ(ask("")["stop_sequence"], nullptr);
  const Json stopped = ask(R"("stop_sequences":["four", "three"])");
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], "three");
  EXPECT_EQ(stopped["content"][0]["text"], "One, two, ");
}

TEST(Messages, OfACallThatIsCutOffOnlyWholeArgumentsAreThere) {
  const std::string answer = std::string(kAnswer).substr(std::string(kAnswer).find("I look"));
  const std::vector<uint32_t> tokens = RouterHarness::Tokens(answer.substr(0, answer.find(", 20]")));
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::Tokens(answer)});
  std::string body = Body();
  body.replace(body.find("1000"), 4, absl::StrCat(tokens.size()));
  const Json message = Json::parse(router.Do("POST", "/v1/messages", body).body());
  EXPECT_EQ(message["stop_reason"], "max_tokens");
  ASSERT_EQ(message["content"].size(), 2u);
  EXPECT_EQ(message["content"][1]["input"], Json::parse(R"({"path": "a.cc"})"));
}

TEST(Messages, ErrorsHaveAnthropicsForm) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::AnswerTokens()});
  const auto type = [](const testing::Reply& reply) { return Json::parse(reply.body())["error"]["type"]; };
  const auto bad = router.Do("POST", "/v1/messages", R"({"model":"claude-x","messages":[]})");
  EXPECT_EQ(bad.result_int(), 400u);
  EXPECT_EQ(Json::parse(bad.body())["type"], "error");
  EXPECT_EQ(type(bad), "invalid_request_error");
  std::string other = Body();
  other.replace(other.find("claude-sonnet-4-5"), 17, "gpt-9");
  const auto unknown = router.Do("POST", "/v1/messages", other);
  EXPECT_EQ(unknown.result_int(), 404u);
  EXPECT_EQ(type(unknown), "not_found_error");
  const auto method = router.Do("GET", "/v1/messages");
  EXPECT_EQ(method.result_int(), 405u);
  EXPECT_EQ(Json::parse(method.body())["type"], "error");
}

TEST(Messages, BeingOverloadedIs529) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.queue_timeout = absl::Milliseconds(200);
  testing::Script full{RouterHarness::AnswerTokens()};
  full.full = true;
  RouterHarness router(1, config, full);
  const auto reply = router.Do("POST", "/v1/messages", Body());
  EXPECT_EQ(reply.result_int(), 529u) << reply.body();
  EXPECT_EQ(Json::parse(reply.body())["error"]["type"], "overloaded_error");
  EXPECT_FALSE(std::string(reply["Retry-After"]).empty());
}

TEST(Messages, CountsTheTokensThatAnAnswerWouldCost) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::AnswerTokens()});
  const std::string system = R"("system":"Be short.")";
  const Json answered = Json::parse(router.Do("POST", "/v1/messages", Body(system)).body());
  const Json counted = Json::parse(router.Do("POST", "/v1/messages/count_tokens", Body(system)).body());
  EXPECT_EQ(counted, (Json{{"input_tokens", answered["usage"]["input_tokens"]}}));
  EXPECT_EQ(router.Do("POST", "/v1/messages/count_tokens", "{}").result_int(), 400u);
}

}  // namespace
}  // namespace longshelf::router
