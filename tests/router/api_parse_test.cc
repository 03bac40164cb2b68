#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "router/api_request.h"
#include "router/effort.h"
#include "router/limits.h"

namespace longshelf::router {
namespace {

using ::testing::HasSubstr;

const ParseLimits kLimits{kSizeLimits, 4224};

std::string Chat(const std::string& extra) {
  return absl::StrCat(R"({"messages":[{"role":"user","content":"hi"}])", extra.empty() ? "" : ",", extra, "}");
}
std::string Text(const std::string& extra) {
  return absl::StrCat(R"({"prompt":"hi")", extra.empty() ? "" : ",", extra, "}");
}
std::string Body(Api api, const std::string& extra) { return api == Api::kChat ? Chat(extra) : Text(extra); }

std::optional<ApiError> ErrorOf(Api api, const std::string& body) {
  auto result = ParseRequestBody(api, body, kLimits);
  if (auto* error = std::get_if<ApiError>(&result)) return *error;
  return std::nullopt;
}
ApiRequest RequestOf(Api api, const std::string& body) {
  auto result = ParseRequestBody(api, body, kLimits);
  if (auto* error = std::get_if<ApiError>(&result)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<ApiRequest>(std::move(result));
}

class EveryNumericField : public ::testing::TestWithParam<NumericLimit> {};

TEST_P(EveryNumericField, IsRefusedByNameOutsideItsRow) {
  const NumericLimit& limit = GetParam();
  for (const Api api : {Api::kChat, Api::kCompletions}) {
    if (!AppliesTo(limit, api)) continue;
    // logprobs of chat is another field; top_logprobs needs it.
    const std::string with = limit.field == NumericField::kTopLogprobs ? R"("logprobs":true,)" : "";
    const auto field = [&](const std::string& value) {
      return Body(api, absl::StrCat(with, "\"", std::string(limit.name), "\":", value));
    };
    for (const char* value : {"true", "false", "\"1\"", "[]", "{}", "[1]", "{\"a\":1}", "1e309", "-1e309", "NaN",
                              "Infinity", "1e400", "99999999999999999999999999", "-"}) {
      const auto error = ErrorOf(api, field(value));
      ASSERT_TRUE(error.has_value()) << limit.name << " = " << value;
      EXPECT_EQ(error->http_status, 400);
    }
    for (const char* value : {"true", "\"1\"", "[]", "{}", "1e30", "1.5", "-9223372036854775808", "9007199254740993",
                              "-1", "0", "1", "1e6"}) {
      const auto error = ErrorOf(api, field(value));
      if (!error) continue;  // inside the row, checked below
      EXPECT_EQ(error->http_status, 400) << limit.name << " = " << value;
      EXPECT_TRUE(error->param == limit.name || error->param == "best_of") << error->param << " for " << value;
      EXPECT_THAT(error->message, HasSubstr(std::string(limit.name)));
    }
    EXPECT_EQ(ErrorOf(api, field("null")).has_value(), !limit.nullable) << limit.name;
  }
}

TEST_P(EveryNumericField, AcceptsBothEndsAndNothingBeyond) {
  const NumericLimit& limit = GetParam();
  const bool is_any_64_bits = limit.min == std::numeric_limits<int64_t>::min();
  for (const Api api : {Api::kChat, Api::kCompletions}) {
    if (!AppliesTo(limit, api)) continue;
    const auto error_of = [&](const std::string& value) {
      std::string with = limit.field == NumericField::kTopLogprobs ? R"("logprobs":true,)" : "";
      if (limit.field == NumericField::kBestOf) with = absl::StrCat("\"n\":", value, ",");
      return ErrorOf(api, Body(api, absl::StrCat(with, "\"", std::string(limit.name), "\":", value)));
    };
    EXPECT_FALSE(error_of(absl::StrCat(limit.min)).has_value()) << limit.name;
    EXPECT_FALSE(error_of(absl::StrCat(limit.max)).has_value()) << limit.name;
    if (is_any_64_bits) continue;
    for (const std::string& value :
         {absl::StrCat(limit.min - 1), absl::StrCat(limit.max + 1), absl::StrCat(limit.max, ".5")}) {
      const auto error = error_of(value);
      ASSERT_TRUE(error.has_value()) << limit.name << " = " << value;
      if (limit.field == NumericField::kBestOf) continue;  // n, the same value, is refused first
      EXPECT_EQ(error->param, std::string(limit.name));
      EXPECT_THAT(error->message, HasSubstr(absl::StrCat(limit.max))) << "the limit must be named";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Limits, EveryNumericField, ::testing::ValuesIn(NumericLimits().begin(), NumericLimits().end()),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(ParseRequestBody, RefusesWhatIsNotAnObjectOfBoundedDepth) {
  for (const char* body : {"", "[]", "1", "null", "\"x\"", "{", "{]", "{\"a\":}", "\xff", "{\"messages\":}"}) {
    const auto error = ErrorOf(Api::kChat, body);
    ASSERT_TRUE(error.has_value()) << body;
    EXPECT_EQ(error->code, "invalid_json") << body;
  }
  EXPECT_TRUE(ErrorOf(Api::kChat, std::string(200000, '[')).has_value());
  EXPECT_FALSE(ErrorOf(Api::kChat, Chat("\"x\":" + std::string(60, '[') + std::string(60, ']'))).has_value());
  const auto deep = ErrorOf(Api::kChat, Chat("\"x\":" + std::string(65, '[') + std::string(65, ']')));
  ASSERT_TRUE(deep.has_value());
  EXPECT_THAT(deep->message, HasSubstr("64"));
}

TEST(ParseRequestBody, IgnoresUnknownFieldsAndRefusesRepeatedOnes) {
  EXPECT_FALSE(ErrorOf(Api::kChat, Chat(R"("metadata":{"a":1},"service_tier":"auto","unheard_of":[{}])")).has_value());
  EXPECT_TRUE(ErrorOf(Api::kChat, Chat(R"("n":1,"n":2)")).has_value());
}

TEST(ParseRequestBody, RefusesFieldsItCannotHonour) {
  for (const auto& [api, field, param] :
       {std::tuple(Api::kCompletions, R"("suffix":"x")", "suffix"),
        std::tuple(Api::kChat, R"("chat_template":"{{x}}")", "chat_template"),
        std::tuple(Api::kChat, R"("prompt_embeds":"AA==")", "prompt_embeds"),
        std::tuple(Api::kChat, R"("functions":[])", "functions"),
        std::tuple(Api::kChat, R"("logit_bias":{"5":1})", "logit_bias"),
        std::tuple(Api::kChat, R"("response_format":{"type":"json_schema","json_schema":{}})", "response_format.type"),
        std::tuple(Api::kCompletions, R"("echo":true,"logprobs":1)", "echo"),
        std::tuple(Api::kCompletions, R"("n":2,"best_of":3)", "best_of"),
        std::tuple(Api::kChat, R"("stream_options":{"include_usage":true})", "stream_options"),
        std::tuple(Api::kChat, R"("top_logprobs":2)", "top_logprobs"),
        std::tuple(Api::kChat, R"("chat_template_kwargs":{"x":1})", "chat_template_kwargs"),
        std::tuple(Api::kChat, R"("user_id":"a b")", "user_id"),
        std::tuple(Api::kChat, R"("thinking":{"type":"on"})", "thinking.type"),
        std::tuple(Api::kChat, R"("thinking":true)", "thinking.type"),
        std::tuple(Api::kChat, R"("reasoning_effort":"huge")", "reasoning_effort"),
        std::tuple(Api::kChat, R"("reasoning_effort":3)", "reasoning_effort"),
        std::tuple(Api::kChat, R"("stream":"yes")", "stream"),
        std::tuple(Api::kChat, R"("logprobs":2)", "logprobs"),
        std::tuple(Api::kChat, R"("model":7)", "model"),
        std::tuple(Api::kChat, R"("user":7)", "user"),
        std::tuple(Api::kChat, R"("stop":[1])", "stop"),
        std::tuple(Api::kChat, R"("stop":"")", "stop"),
        std::tuple(Api::kChat, R"("stop_token_ids":[4224])", "stop_token_ids"),
        std::tuple(Api::kChat, R"("stop_token_ids":[-1])", "stop_token_ids")}) {
    const auto error = ErrorOf(api, Body(api, field));
    ASSERT_TRUE(error.has_value()) << field;
    EXPECT_EQ(error->param, param) << field << ": " << error->message;
    EXPECT_EQ(error->http_status, 400);
  }
}

TEST(ParseRequestBody, TakesUpToSixteenStopStrings) {
  std::string stops;
  for (int i = 0; i < 16; ++i) absl::StrAppend(&stops, i ? "," : "", "\"s", i, "\"");
  EXPECT_EQ(RequestOf(Api::kChat, Chat("\"stop\":[" + stops + "]")).stop.size(), 16u);
  EXPECT_EQ(RequestOf(Api::kChat, Chat("\"stop\":\"one\"")).stop, std::vector<std::string>{"one"});
  EXPECT_TRUE(ErrorOf(Api::kChat, Chat("\"stop\":[" + stops + ",\"more\"]")).has_value());
  EXPECT_TRUE(ErrorOf(Api::kChat, Chat("\"stop\":\"" + std::string(1025, 'x') + "\"")).has_value());
}

TEST(ParseRequestBody, ReadsPromptsInEveryForm) {
  EXPECT_EQ(std::get<std::string>(RequestOf(Api::kCompletions, R"({"prompt":"x"})").prompt), "x");
  EXPECT_EQ(std::get<std::string>(RequestOf(Api::kCompletions, R"({"prompt":["x"]})").prompt), "x");
  const std::vector<uint32_t> ids = {5, 6};
  EXPECT_EQ(std::get<1>(RequestOf(Api::kCompletions, R"({"prompt":[5,6]})").prompt), ids);
  EXPECT_EQ(std::get<1>(RequestOf(Api::kCompletions, R"({"prompt":[[5,6]]})").prompt), ids);
  for (const char* body :
       {R"({})", R"({"prompt":7})", R"({"prompt":null})", R"({"prompt":["a","b"]})", R"({"prompt":[[1],[2]]})",
        R"({"prompt":[[[1]]]})", R"({"prompt":[4224]})", R"({"prompt":[-1]})", R"({"prompt":[1.5]})",
        R"({"prompt":[1,"a"]})", R"({"prompt":[99999999999]})"}) {
    const auto error = ErrorOf(Api::kCompletions, body);
    ASSERT_TRUE(error.has_value()) << body;
    EXPECT_EQ(error->param, "prompt") << body;
  }
}

TEST(ParseRequestBody, RefusesMalformedMessagesByPath) {
  for (const auto& [messages, param] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"([])", "messages"},
           {R"("hi")", "messages"},
           {R"([7])", "messages[0]"},
           {R"([{"content":"x"}])", "messages[0].role"},
           {R"([{"role":"root","content":"x"}])", "messages[0].role"},
           {R"([{"role":"user"}])", "messages[0].content"},
           {R"([{"role":"user","content":null}])", "messages[0].content"},
           {R"([{"role":"user","content":7}])", "messages[0].content"},
           {R"([{"role":"user","content":[]}])", "messages[0].content"},
           {R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x/y"}}]}])",
            "messages[0].content[0].type"},
           {R"([{"role":"user","content":[{"type":"file","file":{}}]}])", "messages[0].content[0].type"},
           {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
           {R"([{"role":"assistant","content":"x"}])", "messages"},
           {R"([{"role":"system","content":"x"}])", "messages"},
           {R"([{"role":"assistant","content":"x","tool_calls":[{}]},{"role":"user","content":"x"}])",
            "messages[0].tool_calls[0].function"},
           {R"([{"role":"tool","content":"x"}])", "messages[0].tool_call_id"}}) {
    const auto error = ErrorOf(Api::kChat, absl::StrCat("{\"messages\":", messages, "}"));
    ASSERT_TRUE(error.has_value()) << messages;
    EXPECT_EQ(error->param, param) << messages << ": " << error->message;
  }
  EXPECT_TRUE(ErrorOf(Api::kChat, "{}").has_value());
}

TEST(ParseRequestBody, AcceptsAnAgentsHistory) {
  const ApiRequest request = RequestOf(Api::kChat, R"({"messages":[
    {"role":"developer","content":[{"type":"text","text":"Be brief."},{"type":"text","text":"Really."}]},
    {"role":"user","content":"weather?","name":"Ann"},
    {"role":"assistant","content":null,"reasoning_content":"I need the tool.",
     "tool_calls":[{"id":"c1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Oslo\"}"}}]},
    {"role":"tool","tool_call_id":"c1","content":[{"type":"text","text":"rain"}]}],
    "tools":[{"type":"function","function":{"name":"get_weather","description":"d","parameters":{"type":"object"}}}],
    "tool_choice":"auto","parallel_tool_calls":false})");
  ASSERT_EQ(request.messages.size(), 4u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[0].content, "Be brief.\n\nReally.");
  EXPECT_EQ(
      request.messages[0].tools,
      std::vector<std::string>{R"({"name": "get_weather", "description": "d", "parameters": {"type": "object"}})"});
  EXPECT_EQ(request.messages[2].tool_calls.at(0).arguments, R"({"city":"Oslo"})");
  EXPECT_EQ(request.messages[2].reasoning_content, "I need the tool.");
  EXPECT_TRUE(request.messages[3].content_is_parts);
  EXPECT_TRUE(request.one_tool_call);
}

TEST(ParseRequestBody, ToolsGetASystemMessageOfTheirOwnAndNoneRemovesThem) {
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f"}}])";
  const ApiRequest with = RequestOf(Api::kChat, Chat(tools));
  ASSERT_EQ(with.messages.size(), 2u);
  EXPECT_EQ(with.messages[0].role, "system");
  EXPECT_EQ(with.messages[0].tools.size(), 1u);
  const ApiRequest without = RequestOf(Api::kChat, Chat(tools + R"(,"tool_choice":"none")"));
  EXPECT_EQ(without.messages.size(), 1u);
}

TEST(ParseRequestBody, ACallOfAnyOrOfANamedToolCanBeDemandedWithoutThinking) {
  const std::string tools =
      R"("thinking":{"type":"disabled"},"tools":[{"type":"function","function":{"name":"f"}},
         {"type":"function","function":{"name":"g"}}],"tool_choice":)";
  const ApiRequest any = RequestOf(Api::kChat, Chat(tools + "\"required\""));
  EXPECT_EQ(any.forced_call, "");
  EXPECT_FALSE(any.one_tool_call);
  const ApiRequest named = RequestOf(Api::kChat, Chat(tools + R"({"type":"function","function":{"name":"g"}})"));
  EXPECT_EQ(named.forced_call, "g");
  EXPECT_TRUE(named.one_tool_call);
  for (const char* choice : {"\"auto\"", "\"none\"", "null"}) {
    EXPECT_FALSE(RequestOf(Api::kChat, Chat(tools + choice)).forced_call.has_value()) << choice;
  }
  // Tools of a system message count like those of the request.
  const ApiRequest own = RequestOf(Api::kChat, R"({"messages":[{"role":"user","content":"x"},
    {"role":"system","content":"y","tools":[{"type":"function","function":{"name":"h"}}]},
    {"role":"user","content":"z"}],"reasoning_effort":"none",
    "tool_choice":{"type":"function","function":{"name":"h"}}})");
  EXPECT_EQ(own.forced_call, "h");
}

TEST(ParseRequestBody, RefusesToolChoicesThatCannotBe) {
  const std::string off = R"("thinking":{"type":"disabled"},)";
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f","x":"\"name\": \"g\""}}],)";
  const std::string f = R"({"type":"function","function":{"name":"f"}})";
  const std::string g = R"({"type":"function","function":{"name":"g"}})";
  const std::string name = "tool_choice.function.name";
  for (const auto& [fields, choice, param, says] : std::initializer_list<std::array<std::string, 4>>{
           {tools, "\"required\"", "tool_choice", "thinking disabled"},
           {tools, f, "tool_choice", "thinking disabled"},
           {tools + R"("thinking":{"type":"enabled"},"reasoning_effort":"none",)", f, "tool_choice", "thinking"},
           {off, "\"required\"", "tool_choice", "tools"},
           {off + R"("tools":[],)", "\"required\"", "tool_choice", "tools"},
           {off, f, "tool_choice", "tools"},
           {off + tools, g, name, "name of one of the tools"},
           {off + tools, R"({"type":"function","function":{"name":""}})", name, "name"},
           {off + tools, R"({"type":"function","function":{"name":7}})", name, "name"},
           {off + tools, R"({"type":"function","function":{}})", name, "name"},
           {off + tools, R"({"type":"function"})", name, "name"},
           {off + tools, R"({"type":"custom","custom":{"name":"f"}})", "tool_choice", "must be"},
           {off + tools, R"({"function":{"name":"f"}})", "tool_choice", "must be"},
           {off + tools, "\"f\"", "tool_choice", "must be"},
           {off + tools, "true", "tool_choice", "must be"},
           {off + tools, "[]", "tool_choice", "must be"}}) {
    const auto error = ErrorOf(Api::kChat, Chat(absl::StrCat(fields, "\"tool_choice\":", choice)));
    ASSERT_TRUE(error.has_value()) << fields << choice;
    EXPECT_EQ(error->http_status, 400);
    EXPECT_EQ(error->param, param) << fields << choice;
    EXPECT_THAT(error->message, HasSubstr(says)) << fields << choice;
  }
}

TEST(ParseRequestBody, AssistantPrefixContinuesTheMessage) {
  const ApiRequest request = RequestOf(
      Api::kChat, R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"On","prefix":true}]})");
  EXPECT_TRUE(request.continues_assistant);
  EXPECT_TRUE(request.messages.back().wo_eos);
}

TEST(ParseRequestBody, ThinkingIsOnUnlessSwitchedOff) {
  const auto mode = [](const std::string& extra) { return RequestOf(Api::kChat, Chat(extra)).thinking_mode; };
  using tokenizer::ThinkingMode;
  EXPECT_EQ(mode(""), ThinkingMode::kThinking);
  EXPECT_EQ(mode(R"("thinking":{"type":"disabled"})"), ThinkingMode::kChat);
  EXPECT_EQ(mode(R"("thinking":{"type":"enabled","budget_tokens":100})"), ThinkingMode::kThinking);
  EXPECT_EQ(mode(R"("reasoning_effort":"none")"), ThinkingMode::kChat);
  EXPECT_EQ(mode(R"("reasoning_effort":"none","thinking":{"type":"enabled"})"), ThinkingMode::kThinking);
  EXPECT_EQ(mode(R"("reasoning_effort":"max")"), ThinkingMode::kThinking);
  EXPECT_EQ(mode(R"("chat_template_kwargs":{"thinking":false})"), ThinkingMode::kChat);
  EXPECT_EQ(mode(R"("chat_template_kwargs":{"enable_thinking":false,"reasoning_effort":"max"})"), ThinkingMode::kChat);
}

TEST(MapEffort, FollowsTheTableOfEachRevision) {
  using tokenizer::ChatDialect;
  for (const EffortRow& row : EffortTable()) {
    EXPECT_EQ(MapEffort(row.requested, ChatDialect::kPreview).value(), row.preview);
    EXPECT_EQ(MapEffort(row.requested, ChatDialect::k0731).value(), row.v0731);
  }
  EXPECT_EQ(MapEffort("", ChatDialect::kPreview).value(), "high");
  EXPECT_EQ(MapEffort("medium", ChatDialect::k0731).value(), "high");
  EXPECT_FALSE(MapEffort("huge", ChatDialect::k0731).ok());
}

}  // namespace
}  // namespace longshelf::router
