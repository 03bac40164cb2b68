#include "responses/responses_request.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

using tokenizer::ThinkingMode;

std::variant<ApiRequest, ApiError> Parse(const std::string& input, const std::string& extra = "") {
  return ParseResponsesBody(absl::StrCat(R"({"input": )", input, extra, "}"), ParseLimits{kSizeLimits, 4096});
}

ApiRequest Good(const std::string& input, const std::string& extra = "") {
  auto parsed = Parse(input, extra);
  const auto* error = std::get_if<ApiError>(&parsed);
  EXPECT_EQ(error, nullptr) << error->message;
  return error == nullptr ? std::get<ApiRequest>(std::move(parsed)) : ApiRequest{};
}

std::string BadParam(const std::string& input, const std::string& extra = "") {
  const auto parsed = Parse(input, extra);
  const auto* error = std::get_if<ApiError>(&parsed);
  return error == nullptr ? "" : error->param;
}

TEST(ResponsesRequest, ReadsATextAndInstructions) {
  const ApiRequest request = Good(R"("hi")", R"(, "instructions": "Be short.", "max_output_tokens": 7, "store": false,
                                              "metadata": {"a": "b"}, "reasoning": {"effort": "low"})");
  EXPECT_EQ(request.form, AnswerForm::kResponses);
  ASSERT_EQ(request.messages.size(), 2u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[0].content, "Be short.");
  EXPECT_EQ(request.messages[1].content, "hi");
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_EQ(request.reasoning_effort, "low");
  EXPECT_NE(request.echo_members.find(R"(,"metadata":{"a":"b"})"), std::string::npos);
  EXPECT_EQ(Good(R"("hi")", R"(, "reasoning": {"effort": "none"})").thinking_mode, ThinkingMode::kChat);
}

TEST(ResponsesRequest, EveryMemberIsEchoedWhateverOthersHold) {
  const std::string echo =
      Good(R"("hi")", R"(, "metadata": {"a": "x", "user": "y", "text": "z"}, "top_p": 0.5)").echo_members;
  EXPECT_NE(echo.find(R"(,"metadata":{"a":"x","user":"y","text":"z"},"tools":[],)"), std::string::npos) << echo;
  EXPECT_NE(echo.find(R"(,"user":null,)"), std::string::npos) << echo;
  EXPECT_NE(echo.find(R"(,"top_p":0.5,)"), std::string::npos) << echo;
  EXPECT_TRUE(echo.ends_with(R"(,"text":{"format":{"type":"text"}})")) << echo;
}

TEST(ResponsesRequest, WhatAnAssistantDidBetweenOthersIsOneTurn) {
  const ApiRequest request = Good(
      R"([{"role": "developer", "content": "d"}, {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
          {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
          {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "look"}]},
          {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"x\":1}"},
          {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
          {"type": "function_call_output", "call_id": "c2", "output": "two"},
          {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]}])",
      R"(, "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": null}])");
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[0].tools.at(0), R"({"name": "f", "description": "d", "parameters": {"type": "object"}})");
  EXPECT_EQ(request.messages[2].reasoning_content, "hm");
  EXPECT_EQ(request.messages[2].content, "look");
  ASSERT_EQ(request.messages[2].tool_calls.size(), 2u);
  EXPECT_EQ(request.messages[2].tool_calls[0].arguments, R"({"x":1})");
  EXPECT_EQ(request.messages[3].tool_call_id, "c2");
  EXPECT_EQ(request.messages[4].content, "one");
}

TEST(ResponsesRequest, WhatTheSystemSaysLaterIsReadInTheUsersTurn) {
  const ApiRequest request = Good(
      R"([{"role": "developer", "content": "d"}, {"role": "system", "content": "s"}, {"role": "user", "content": "u"},
          {"role": "assistant", "content": "a"}, {"role": "developer", "content": "now"}])");
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[1].role, "system");
  EXPECT_EQ(request.messages[4].role, "user");
  EXPECT_EQ(request.messages[4].content, "now");
  EXPECT_EQ(Good(R"([{"role": "developer", "content": "d"}])").messages.back().role, "user");
}

TEST(ResponsesRequest, EveryOptionalFieldMayBeNull) {
  std::string nulls;
  for (const char* const name : {"background",
                                 "conversation",
                                 "include",
                                 "instructions",
                                 "max_output_tokens",
                                 "max_tool_calls",
                                 "metadata",
                                 "model",
                                 "parallel_tool_calls",
                                 "previous_response_id",
                                 "prompt",
                                 "prompt_cache_key",
                                 "reasoning",
                                 "safety_identifier",
                                 "service_tier",
                                 "store",
                                 "stream",
                                 "stream_options",
                                 "temperature",
                                 "text",
                                 "tool_choice",
                                 "tools",
                                 "top_logprobs",
                                 "top_p",
                                 "truncation",
                                 "user"}) {
    absl::StrAppend(&nulls, ", \"", name, "\": null");
  }
  EXPECT_EQ(BadParam(R"("x")", nulls), "");
}

TEST(ResponsesRequest, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> inputs[] = {
      {"7", "input"},
      {"[]", "input"},
      {"[7]", "input[0]"},
      {R"([{"type": "item_reference", "id": "x"}])", "input[0].type"},
      {R"([{"type": "web_search_call"}])", "input[0].type"},
      {R"([{"role": "tool", "content": "x"}])", "input[0].role"},
      {R"([{"role": "user"}])", "input[0].content"},
      {R"([{"role": "user", "content": [{"type": "input_image"}]}])", "input[0].content[0].type"},
      {R"([{"role": "assistant", "content": "x"}])", "input"},
      {R"([{"type": "function_call", "call_id": "c", "name": "f"}])", "input[0].arguments"},
      {R"([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}])", "input"},
      {R"([{"type": "function_call_output", "call_id": "c", "output": "x"}])", "input[0].call_id"},
  };
  for (const auto& [text, param] : inputs) EXPECT_EQ(BadParam(text), param) << text;
  const std::pair<const char*, const char*> fields[] = {
      {R"(, "previous_response_id": "resp_1")", "previous_response_id"},
      {R"(, "conversation": "c")", "conversation"},
      {R"(, "store": true)", "store"},
      {R"(, "background": true)", "background"},
      {R"(, "truncation": "auto")", "truncation"},
      {R"(, "include": ["file_search_call.results"])", "include"},
      {R"(, "max_output_tokens": 0)", "max_output_tokens"},
      {R"(, "temperature": 9)", "temperature"},
      {R"(, "tools": [{"type": "web_search"}])", "tools[0].type"},
      {R"(, "tools": [{"type": "function"}])", "tools[0].name"},
      {R"(, "tool_choice": "required")", "tool_choice"},
      {R"(, "tool_choice": {"type": "hosted"})", "tool_choice"},
      {R"(, "reasoning": {"effort": "huge"})", "reasoning.effort"},
      {R"(, "text": {"format": {"type": "grammar"}})", "text.format.type"},
  };
  for (const auto& [text, param] : fields) EXPECT_EQ(BadParam(R"("x")", text), param) << text;
}

}  // namespace
}  // namespace longshelf::router
