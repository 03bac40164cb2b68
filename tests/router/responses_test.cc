#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router_harness.h"

// /v1/responses through the whole router, over a worker that answers what it is told.
namespace longshelf::router {
namespace {

using testing::RouterHarness;
using Json = nlohmann::ordered_json;

constexpr char kAnswer[] =
    "Let me think.</think>I look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"read\">\n<｜DSML｜parameter "
    "name=\"path\" string=\"true\">a.cc</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    "<｜end▁of▁sentence｜>";

std::vector<Json> EventsOf(const std::string& body) {
  std::vector<Json> events;
  for (const absl::string_view block : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    if (block.front() == ':') continue;
    const std::pair<absl::string_view, absl::string_view> lines = absl::StrSplit(block, absl::MaxSplits('\n', 1));
    events.push_back(Json::parse(lines.second.substr(6)));
    EXPECT_EQ(lines.first, absl::StrCat("event: ", events.back()["type"].get<std::string>()));
    EXPECT_EQ(events.back()["sequence_number"], events.size() - 1);
  }
  return events;
}

TEST(Responses, AnswersInItemsStreamedOrWhole) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::Tokens(kAnswer)});
  const std::string body = R"({"input":"hi","metadata":{"k":"v"},"instructions":"Be short.")";
  const auto whole = router.Do("POST", "/v1/responses", body + "}");
  ASSERT_EQ(whole.result_int(), 200u) << whole.body();
  const Json response = Json::parse(whole.body());
  EXPECT_EQ(response["object"], "response");
  EXPECT_EQ(response["status"], "completed");
  EXPECT_EQ(response["metadata"], (Json{{"k", "v"}}));
  EXPECT_EQ(response["instructions"], "Be short.");
  EXPECT_EQ(response["store"], false);
  EXPECT_EQ(response["error"], nullptr);
  const Json& output = response["output"];
  ASSERT_EQ(output.size(), 3u) << whole.body();
  EXPECT_EQ(output[0]["content"][0]["text"], "Let me think.");
  EXPECT_EQ(output[1]["content"][0]["text"], "I look.");
  EXPECT_EQ(output[2]["name"], "read");
  EXPECT_EQ(output[2]["arguments"], R"({"path": "a.cc"})");
  EXPECT_EQ(output[2]["status"], "completed");
  EXPECT_GT(response["usage"]["output_tokens_details"]["reasoning_tokens"], 0);

  const std::vector<Json> events = EventsOf(router.Do("POST", "/responses", body + R"(,"stream":true})").body());
  ASSERT_GT(events.size(), 10u);
  EXPECT_EQ(events[0]["type"], "response.created");
  EXPECT_EQ(events[1]["type"], "response.in_progress");
  EXPECT_EQ(events.back()["type"], "response.completed");
  // What is added piece by piece is what each item has in the end, and the response has the items.
  Json items = Json::array();
  std::string text;
  for (const Json& event : events) {
    const std::string type = event["type"];
    if (type == "response.output_item.added") text.clear();
    if (type.ends_with(".delta")) text += event["delta"].get<std::string>();
    const bool is_call = type == "response.function_call_arguments.done";
    if (is_call || type == "response.output_text.done" || type == "response.reasoning_text.done") {
      EXPECT_EQ(event[is_call ? "arguments" : "text"], text);
    }
    if (event.contains("output_index")) {
      EXPECT_EQ(event["output_index"], items.size());
    }
    if (type == "response.output_item.done") items.push_back(event["item"]);
  }
  EXPECT_EQ(events.back()["response"]["output"], items);
  for (size_t i = 0; i < items.size(); ++i) {
    items[i]["id"] = output[i]["id"];
    if (items[i].contains("call_id")) items[i]["call_id"] = output[i]["call_id"];
  }
  EXPECT_EQ(items, output);
}

TEST(Responses, AnAnswerThatIsCutOffIsIncomplete) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::Tokens(kAnswer)});
  const size_t n = RouterHarness::Tokens(std::string(kAnswer).substr(0, std::string(kAnswer).find("cc</"))).size();
  const std::string body = absl::StrCat(R"({"input":"hi","max_output_tokens":)", n);
  const Json response = Json::parse(router.Do("POST", "/v1/responses", body + "}").body());
  EXPECT_EQ(response["status"], "incomplete");
  EXPECT_EQ(response["incomplete_details"], (Json{{"reason", "max_output_tokens"}}));
  EXPECT_EQ(response["output"].back()["status"], "incomplete");
  EXPECT_EQ(EventsOf(router.Do("POST", "/v1/responses", body + R"(,"stream":true})").body()).back()["type"],
            "response.incomplete");
}

TEST(Responses, LogprobsAreOfTheMessagesTokens) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::AnswerTokens()});
  const Json response = Json::parse(
      router.Do("POST", "/v1/responses", R"({"input":"hi","include":["message.output_text.logprobs"]})").body());
  std::string text;
  for (const Json& each : response["output"].back()["content"][0]["logprobs"]) text += each["token"].get<std::string>();
  EXPECT_NE(text.find("The answer is 42"), std::string::npos) << response;
}

TEST(Responses, ErrorsHaveOpenAisForm) {
  RouterHarness router(1, RouterHarness::DefaultConfig(), {RouterHarness::AnswerTokens()});
  const auto kept = router.Do("POST", "/v1/responses", R"({"input":"hi","previous_response_id":"resp_1"})");
  EXPECT_EQ(kept.result_int(), 400u);
  EXPECT_EQ(Json::parse(kept.body())["error"]["param"], "previous_response_id");
}

}  // namespace
}  // namespace longshelf::router
