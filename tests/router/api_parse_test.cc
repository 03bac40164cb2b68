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
       {std::tuple(Api::kChat, R"("chat_template":"{{x}}")", "chat_template"),
        std::tuple(Api::kChat, R"("prompt_embeds":"AA==")", "prompt_embeds"),
        std::tuple(Api::kChat, R"("functions":[])", "functions"),
        std::tuple(Api::kChat, R"("response_format":{"type":"json_schema","json_schema":{}})",
                   "response_format.json_schema.name"),
        std::tuple(Api::kCompletions, R"("n":3,"best_of":2)", "best_of"),
        std::tuple(Api::kCompletions, R"("n":2,"best_of":3,"stream":true)", "best_of"),
        std::tuple(Api::kCompletions, R"("best_of":2,"session":"s")", "best_of"),
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
  const auto prompts = [](const std::string& value) {
    return RequestOf(Api::kCompletions, absl::StrCat("{\"prompt\":", value, "}")).prompts;
  };
  using Ids = std::vector<uint32_t>;
  using Prompts = std::vector<PromptInput>;
  EXPECT_EQ(prompts(R"("x")"), Prompts{"x"});
  EXPECT_EQ(prompts(R"(["x"])"), Prompts{"x"});
  EXPECT_EQ(prompts("[5,6]"), Prompts{(Ids{5, 6})});
  EXPECT_EQ(prompts("[[5,6]]"), Prompts{(Ids{5, 6})});
  EXPECT_EQ(prompts(R"(["One","Two",""])"), (Prompts{"One", "Two", ""}));
  EXPECT_EQ(prompts("[[1],[2,3]]"), (Prompts{Ids{1}, Ids{2, 3}}));
  EXPECT_EQ(prompts(R"(["a",[7]])"), (Prompts{"a", Ids{7}}));
  EXPECT_EQ(prompts("null"), Prompts{"<｜begin▁of▁sentence｜>"});
  for (const auto& [body, param] :
       std::initializer_list<std::pair<const char*, const char*>>{{R"({})", "prompt"},
                                                                  {R"({"prompt":7})", "prompt"},
                                                                  {R"({"prompt":[[[1]]]})", "prompt[0]"},
                                                                  {R"({"prompt":["a",7]})", "prompt[1]"},
                                                                  {R"({"prompt":["a",null]})", "prompt[1]"},
                                                                  {R"({"prompt":[[1],[4224]]})", "prompt[1]"},
                                                                  {R"({"prompt":[4224]})", "prompt"},
                                                                  {R"({"prompt":[-1]})", "prompt"},
                                                                  {R"({"prompt":[1.5]})", "prompt"},
                                                                  {R"({"prompt":[1,"a"]})", "prompt"},
                                                                  {R"({"prompt":[99999999999]})", "prompt"}}) {
    const auto error = ErrorOf(Api::kCompletions, body);
    ASSERT_TRUE(error.has_value()) << body;
    EXPECT_EQ(error->param, param) << body;
  }
}

TEST(ParseRequestBody, BoundsTheNumberOfPromptsAndOfTheirChoices) {
  const auto body = [](size_t n_prompts, int n) {
    std::string prompts;
    for (size_t i = 0; i < n_prompts; ++i) absl::StrAppend(&prompts, i > 0 ? "," : "", "\"p\"");
    return absl::StrCat("{\"prompt\":[", prompts, "],\"n\":", n, "}");
  };
  EXPECT_EQ(RequestOf(Api::kCompletions, body(128, 2)).prompts.size(), 128u);
  EXPECT_EQ(ErrorOf(Api::kCompletions, body(129, 1))->param, "prompt");
  EXPECT_THAT(ErrorOf(Api::kCompletions, body(129, 1))->message, HasSubstr("128"));
  EXPECT_EQ(ErrorOf(Api::kCompletions, body(86, 3))->param, "n");
  EXPECT_THAT(ErrorOf(Api::kCompletions, body(86, 3))->message, HasSubstr("256"));
  const auto in_session = ErrorOf(Api::kCompletions, R"({"prompt":["a","b"],"session":"s"})");
  ASSERT_TRUE(in_session.has_value());
  EXPECT_EQ(in_session->param, "prompt");
}

TEST(ParseRequestBody, EchoedPromptsNeedNoOutput) {
  const ApiRequest request = RequestOf(Api::kCompletions, Text(R"("echo":true,"logprobs":1,"max_tokens":0)"));
  EXPECT_TRUE(request.echo && request.sampling.logprobs);
  EXPECT_EQ(request.max_tokens, 0u);
  for (const char* fields : {R"("max_tokens":0)", R"("echo":false,"max_tokens":0)", R"("echo":null,"max_tokens":0)"}) {
    EXPECT_EQ(ErrorOf(Api::kCompletions, Text(fields))->param, "max_tokens") << fields;
  }
  EXPECT_EQ(ErrorOf(Api::kChat, Chat(R"("echo":true,"max_tokens":0)"))->param, "max_tokens");
  for (const char* fields : {R"("suffix":"x")", R"("session":"s")"}) {
    EXPECT_EQ(ErrorOf(Api::kCompletions, Text(absl::StrCat(R"("echo":true,"logprobs":0,)", fields)))->param, "echo");
  }
}

TEST(ParseRequestBody, ASuffixIsForPromptsOfText) {
  EXPECT_EQ(RequestOf(Api::kCompletions, Text(R"("suffix":"end")")).suffix, "end");
  EXPECT_EQ(RequestOf(Api::kCompletions, R"({"prompt":[1,2],"suffix":""})").suffix, "");
  EXPECT_EQ(ErrorOf(Api::kCompletions, R"({"prompt":[1,2],"suffix":"x"})")->param, "suffix");
  EXPECT_EQ(ErrorOf(Api::kCompletions, Text(R"("suffix":7)"))->param, "suffix");
}

TEST(ParseRequestBody, ReadsLogitBiasesInTheOrderOfTheirTokens) {
  for (const Api api : {Api::kChat, Api::kCompletions}) {
    const ApiRequest request = RequestOf(api, Body(api, R"("logit_bias":{"70":-100,"5":1.5,"4223":100})"));
    std::vector<std::pair<uint32_t, float>> biases;
    for (const TokenBias& entry : request.sampling.logit_bias) biases.emplace_back(entry.token, entry.bias);
    EXPECT_EQ(biases, (std::vector<std::pair<uint32_t, float>>{{5, 1.5F}, {70, -100.0F}, {4223, 100.0F}}));
  }
  std::string many;
  for (int i = 0; i < 1024; ++i) absl::StrAppend(&many, i > 0 ? "," : "", "\"", i, "\":1");
  EXPECT_EQ(RequestOf(Api::kChat, Chat("\"logit_bias\":{" + many + "}")).sampling.logit_bias.size(), 1024u);
  for (const auto& [value, param, text] : std::initializer_list<std::tuple<std::string, const char*, const char*>>{
           {"{" + many + R"(,"1024":1})", "logit_bias", "1024 entries"},
           {"[]", "logit_bias", "object"},
           {R"({"4224":1})", "logit_bias", "4223"},
           {R"({"hello":1})", "logit_bias", "4223"},
           {R"({"":1})", "logit_bias", "4223"},
           {R"({" 5":1})", "logit_bias", "4223"},
           {R"({"-1":1})", "logit_bias", "4223"},
           {R"({"99999999999":1})", "logit_bias", "4223"},
           {R"({"5":100.5})", "logit_bias.5", "-100 and 100"},
           {R"({"5":null})", "logit_bias.5", "-100 and 100"},
           {R"({"5":"1"})", "logit_bias.5", "-100 and 100"},
           {R"({"5":1,"05":2})", "logit_bias.5", "twice"}}) {
    const auto error = ErrorOf(Api::kChat, Chat("\"logit_bias\":" + value));
    ASSERT_TRUE(error.has_value()) << value.substr(0, 40);
    EXPECT_EQ(error->param, param) << value.substr(0, 40);
    EXPECT_THAT(error->message, HasSubstr(text));
  }
}

// Every field that the types of `openai` 3.54.0 (PyPI) do not require, and those of ours and DeepSeek's.
TEST(ParseRequestBody, EveryOptionalFieldMayBeNull) {
  constexpr const char* kOfBoth[] = {"frequency_penalty",
                                     "logit_bias",
                                     "logprobs",
                                     "max_tokens",
                                     "n",
                                     "presence_penalty",
                                     "seed",
                                     "stop",
                                     "stream",
                                     "stream_options",
                                     "temperature",
                                     "top_p",
                                     "user",
                                     "user_id",
                                     "min_p",
                                     "top_k",
                                     "session",
                                     "model",
                                     "service_tier",
                                     "cache_report",
                                     "stop_token_ids",
                                     "max_completion_tokens",
                                     "chat_template",
                                     "prompt_embeds"};
  constexpr const char* kOfCompletions[] = {"best_of", "echo", "suffix"};
  constexpr const char* kOfChat[] = {"audio",
                                     "function_call",
                                     "functions",
                                     "metadata",
                                     "modalities",
                                     "moderation",
                                     "parallel_tool_calls",
                                     "prediction",
                                     "prompt_cache_key",
                                     "prompt_cache_options",
                                     "prompt_cache_retention",
                                     "reasoning_effort",
                                     "response_format",
                                     "safety_identifier",
                                     "store",
                                     "tool_choice",
                                     "tools",
                                     "top_logprobs",
                                     "verbosity",
                                     "web_search_options",
                                     "thinking",
                                     "chat_template_kwargs"};
  const auto expect_null_taken = [](Api api, const std::string& name) {
    const auto error = ErrorOf(api, Body(api, "\"" + name + "\":null"));
    EXPECT_FALSE(error.has_value()) << name << ": " << error->message;
  };
  for (const char* name : kOfBoth) {
    expect_null_taken(Api::kChat, name);
    expect_null_taken(Api::kCompletions, name);
  }
  for (const char* name : kOfCompletions) expect_null_taken(Api::kCompletions, name);
  for (const char* name : kOfChat) expect_null_taken(Api::kChat, name);
}

TEST(ParseRequestBody, EveryOptionalFieldOfNestedObjectsMayBeNull) {
  for (
      const char* fields :
      {R"("stream":true,"stream_options":{"include_usage":null,"include_obfuscation":null})",
       R"("response_format":{"type":"text","json_schema":null})", R"("thinking":{"type":null,"budget_tokens":null})",
       R"("chat_template_kwargs":{"thinking":null,"enable_thinking":null,"reasoning_effort":null})",
       R"("session":{"id":"s","retention_s":null,"durability":null})",
       R"("tools":[{"type":"function","function":{"name":"f","description":null,"parameters":null,"strict":null}}])"}) {
    const auto error = ErrorOf(Api::kChat, Chat(fields));
    EXPECT_FALSE(error.has_value()) << fields << ": " << error->message;
  }
  const auto error = ErrorOf(Api::kChat, R"({"messages":[
    {"role":"system","content":"s","name":null,"tools":null},
    {"role":"user","content":"u","name":null,"prefix":null},
    {"role":"assistant","content":null,"name":null,"audio":null,"function_call":null,"refusal":null,
     "reasoning_content":null,"reasoning":null,"prefix":null,
     "tool_calls":[{"id":"c","type":null,"function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","content":"t","tool_call_id":"c","name":null},
    {"role":"assistant","content":"a","tool_calls":null},
    {"role":"user","content":"u"}]})");
  EXPECT_FALSE(error.has_value()) << error->message;
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

TEST(ParseRequestBody, EveryCallHasOneAnswerAndEveryAnswerItsCall) {
  const std::string user = R"({"role":"user","content":"u"})";
  const auto calls = [](std::initializer_list<const char*> ids) {
    std::string list;
    for (const char* id : ids) {
      absl::StrAppend(&list, list.empty() ? "" : ",", "{\"id\":\"", id,
                      R"(","type":"function","function":{"name":"f","arguments":"{}"}})");
    }
    return absl::StrCat(R"({"role":"assistant","content":"","tool_calls":[)", list, "]}");
  };
  const auto answer = [](const char* id) {
    return absl::StrCat(R"({"role":"tool","content":"t","tool_call_id":")", id, "\"}");
  };
  const auto error_of = [](const std::vector<std::string>& messages) {
    std::string list;
    for (const std::string& message : messages) absl::StrAppend(&list, list.empty() ? "" : ",", message);
    return ErrorOf(Api::kChat, "{\"messages\":[" + list + "]}");
  };
  EXPECT_FALSE(error_of({user, calls({"a", "b"}), answer("b"), answer("a")}).has_value());
  EXPECT_FALSE(error_of({user, calls({"a"}), answer("a"), calls({"a"}), answer("a"), user}).has_value());
  EXPECT_FALSE(error_of({calls({"a", "a"}), answer("a"), answer("a")}).has_value()) << "each once";
  const std::initializer_list<std::pair<std::vector<std::string>, const char*>> cases = {
      {{answer("a")}, "messages[0].tool_call_id"},
      {{user, answer("a")}, "messages[1].tool_call_id"},
      {{user, calls({"a"}), answer("b")}, "messages[2].tool_call_id"},
      {{user, calls({"a"}), answer("a"), answer("a")}, "messages[3].tool_call_id"},
      {{user, calls({"a"}), answer("a"), user, answer("a")}, "messages[4].tool_call_id"},
      {{user, calls({"a"}), user}, "messages[1].tool_calls"},
      {{user, calls({"a", "b"}), answer("a"), user}, "messages[1].tool_calls"},
      {{user, calls({"a", "b"}), answer("b")}, "messages[1].tool_calls"},
      {{user, calls({"a"}), user, answer("a")}, "messages[1].tool_calls"},
      {{user, calls({"a"}), calls({"b"}), answer("b")}, "messages[1].tool_calls"}};
  for (const auto& [messages, param] : cases) {
    const auto error = error_of(messages);
    ASSERT_TRUE(error.has_value()) << param;
    EXPECT_EQ(error->param, param) << error->message;
  }
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

TEST(ParseRequestBody, ACallOfAnyOrOfANamedToolCanBeDemanded) {
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"f"}},
         {"type":"function","function":{"name":"g"}}],"tool_choice":)";
  const ApiRequest any = RequestOf(Api::kChat, Chat(tools + "\"required\""));
  EXPECT_EQ(any.forced_call, "");
  EXPECT_FALSE(any.one_tool_call);
  EXPECT_EQ(any.thinking_mode, tokenizer::ThinkingMode::kThinking);
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
  const ApiRequest thought = RequestOf(Api::kChat, R"({"messages":[{"role":"user","content":"x"},
                      {"role":"assistant","reasoning_content":"Hm.","content":"On","prefix":true}]})");
  EXPECT_EQ(thought.messages.back().reasoning_content, "Hm.");
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
