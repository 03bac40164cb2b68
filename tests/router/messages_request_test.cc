#include "anthropic/messages_request.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

using tokenizer::ThinkingMode;

const ThinkingSigner kSigner("secret", "acme");

std::string Sign(std::string_view text, const ThinkingSigner& signer = kSigner) {
  ThinkingSigner::Signature signature(signer);
  signature.Add(text);
  return signature.Finish();
}

std::variant<ApiRequest, ApiError> Parse(const std::string& messages, const std::string& extra = "",
                                         bool counts_only = false) {
  const std::string max_tokens = counts_only ? "" : R"("max_tokens": 100,)";
  return ParseMessagesBody(
      absl::StrCat(R"({"model": "claude-x", )", max_tokens, R"("messages": )", messages, extra, "}"),
      ParseLimits{kSizeLimits, 4096}, kSigner, counts_only);
}

ApiRequest Good(const std::string& messages, const std::string& extra = "") {
  auto parsed = Parse(messages, extra);
  const auto* error = std::get_if<ApiError>(&parsed);
  EXPECT_EQ(error, nullptr) << error->message;
  return error == nullptr ? std::get<ApiRequest>(std::move(parsed)) : ApiRequest{};
}

std::string BadParam(const std::string& messages, const std::string& extra = "") {
  const auto parsed = Parse(messages, extra);
  const auto* error = std::get_if<ApiError>(&parsed);
  if (error == nullptr) return "";
  EXPECT_TRUE(error->message.starts_with(error->param)) << error->message;
  return error->param;
}

constexpr char kHi[] = R"([{"role": "user", "content": "hi"}])";

TEST(MessagesRequest, ReadsABareRequest) {
  const ApiRequest request = Good(kHi);
  EXPECT_EQ(request.form, AnswerForm::kMessages);
  EXPECT_EQ(request.model, "") << "what Anthropic's clients ask for is what is served";
  EXPECT_EQ(request.max_tokens, 100u);
  EXPECT_EQ(request.thinking_mode, ThinkingMode::kChat) << "off unless asked for";
  ASSERT_EQ(request.messages.size(), 1u);
  EXPECT_EQ(request.messages[0].content, "hi");
  EXPECT_TRUE(std::holds_alternative<ApiRequest>(Parse(kHi, "", /*counts_only=*/true)));
}

TEST(MessagesRequest, ReadsAToolTurnBlockByBlock) {
  const std::string messages = absl::StrCat(
      R"([{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},)"
      R"({"type": "text", "text": "b"}]},{"role": "assistant", "content": [)"
      R"({"type": "thinking", "thinking": "hm", "signature": ")",
      Sign("hm"),
      R"("},{"type": "text", "text": "look"},{"type": "tool_use", "id": "t1", "name": "f", "input": {"x": [1, 2]}},)"
      R"({"type": "tool_use", "id": "t2", "name": "g", "input": {}}]},{"role": "user", "content": [)"
      R"({"type": "tool_result", "tool_use_id": "t2", "is_error": true},)"
      R"({"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "r"}]},)"
      R"({"type": "text", "text": "go on"}]}])");
  const ApiRequest request = Good(messages, R"(, "thinking": {"type": "enabled", "budget_tokens": 2048})");
  EXPECT_EQ(request.thinking_mode, ThinkingMode::kThinking);
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].content, "a\n\nb");
  const tokenizer::ChatMessage& assistant = request.messages[1];
  EXPECT_EQ(assistant.reasoning_content, "hm");
  EXPECT_EQ(assistant.content, "look");
  ASSERT_EQ(assistant.tool_calls.size(), 2u);
  EXPECT_EQ(assistant.tool_calls[0].arguments, R"({"x":[1,2]})");
  EXPECT_EQ(request.messages[2].tool_call_id, "t2");
  EXPECT_EQ(request.messages[2].content, "error");
  EXPECT_EQ(request.messages[3].content, "r");
  EXPECT_EQ(request.messages[4].role, "user");
  EXPECT_EQ(request.messages[4].content, "go on");
}

TEST(MessagesRequest, WhatTheSystemSaysLaterIsReadInTheUsersTurn) {
  const ApiRequest request = Good(
      R"([{"role": "system", "content": "first"}, {"role": "user", "content": "hi"},
          {"role": "system", "content": [{"type": "text", "text": "the date"}]},
          {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
          {"role": "system", "content": "hurry"},
          {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
          {"role": "system", "content": "last"}])");
  std::vector<std::string> roles;
  for (const tokenizer::ChatMessage& message : request.messages) roles.push_back(message.role);
  EXPECT_EQ(roles, (std::vector<std::string>{"system", "user", "user", "assistant", "user", "tool", "user"}));
  EXPECT_EQ(request.messages[2].content, "the date");
  const ApiRequest alone = Good(R"([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}])");
  EXPECT_EQ(alone.messages.front().role, "system");
  EXPECT_EQ(alone.messages.back().role, "user");
}

TEST(MessagesRequest, LeavesOutTheLineThatClaudeCodeChangesEveryTime) {
  const auto system_of = [](const std::string& value) {
    return Good(kHi, absl::StrCat(R"(, "system": )", value)).messages.front().content.value_or("");
  };
  const std::string billing = "x-anthropic-billing-header: cc_version=2.1; cch=";
  EXPECT_EQ(
      system_of(absl::StrCat(R"([{"type": "text", "text": ")", billing,
                             R"(abc"}, {"type": "text", "text": "You are."}, {"type": "text", "text": "More."}])")),
      "You are.\n\nMore.");
  EXPECT_EQ(system_of(absl::StrCat("\"", billing, R"(1\n\nYou are.")")), "You are.");
  EXPECT_EQ(system_of(R"("Say x-anthropic-billing-header")"), "Say x-anthropic-billing-header");
}

TEST(MessagesRequest, ToolsAreWhatAnOpenAiClientWouldHaveSent) {
  const ApiRequest request =
      Good(kHi, R"(, "tools": [{"name": "f", "description": "d \"q\"", "input_schema": {"type": "object"}}],)"
                R"("tool_choice": {"type": "tool", "name": "f"})");
  ASSERT_EQ(request.messages.front().tools.size(), 1u);
  EXPECT_EQ(request.messages.front().tools[0],
            R"({"name": "f", "description": "d \"q\"", "parameters": {"type": "object"}})");
  EXPECT_EQ(request.forced_call, "f");
  EXPECT_TRUE(request.one_tool_call);
}

TEST(MessagesRequest, AnAssistantMessageAtTheEndGoesOn) {
  const ApiRequest request = Good(R"([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "He"}])");
  EXPECT_TRUE(request.continues_assistant);
  EXPECT_TRUE(request.messages.back().wo_eos);
}

TEST(MessagesRequest, AUserKeepsItsCacheFromSessionToSession) {
  const auto user = [](const std::string& id) {
    return Good(kHi, absl::StrCat(R"(, "metadata": {"user_id": ")", id, "\"}")).user_id;
  };
  EXPECT_EQ(user("user_a_account_b_session_1"), user("user_a_account_b_session_2"));
  EXPECT_NE(user("user_a_account_b_session_1"), user("user_c_account_b_session_1"));
  EXPECT_EQ(user(R"({\"device_id\":\"d\",\"session_id\":\"1\"})"),
            user(R"({\"device_id\":\"d\",\"session_id\":\"2\"})"));
  EXPECT_NE(user(R"({\"device_id\":\"d\",\"session_id\":\"1\"})"),
            user(R"({\"device_id\":\"e\",\"session_id\":\"1\"})"));
}

TEST(MessagesRequest, SignaturesAreOfThisTextAndTenant) {
  const auto with = [](const std::string& signature) {
    return BadParam(absl::StrCat(R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": [)"
                                 R"({"type": "thinking", "thinking": "hm", "signature": ")",
                                 signature,
                                 R"("}, {"type": "text", "text": "y"}]}, {"role": "user", "content": "z"}])"));
  };
  EXPECT_EQ(with(Sign("hm")), "");
  EXPECT_EQ(with(Sign("hm!")), "messages[1].content[0].signature");
  EXPECT_EQ(with(Sign("hm", ThinkingSigner("secret", "other"))), "messages[1].content[0].signature");
  EXPECT_EQ(with(Sign("hm", ThinkingSigner("another", "acme"))), "messages[1].content[0].signature");
  EXPECT_EQ(with(""), "messages[1].content[0].signature");
}

TEST(MessagesRequest, EveryOptionalFieldMayBeNull) {
  std::string nulls;
  for (const char* const name :
       {"system", "metadata", "stop_sequences", "stream", "temperature", "tool_choice", "tools", "top_k", "top_p",
        "thinking", "service_tier", "container", "mcp_servers", "output_config", "context_management"}) {
    absl::StrAppend(&nulls, ", \"", name, "\": null");
  }
  EXPECT_EQ(BadParam(kHi, nulls), "");
}

TEST(MessagesRequest, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> messages[] = {
      {"7", "messages"},
      {"[]", "messages"},
      {"[7]", "messages[0]"},
      {R"([{"role": "tool", "content": "x"}])", "messages[0].role"},
      {R"([{"role": "user"}])", "messages[0].content"},
      {R"([{"role": "user", "content": []}])", "messages[0].content"},
      {R"([{"role": "user", "content": [{}]}])", "messages[0].content[0].type"},
      {R"([{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content[0].text"},
      {R"([{"role": "user", "content": [{"type": "image", "source": {}}]}])", "messages[0].content[0].type"},
      {R"([{"role": "user", "content": [{"type": "tool_use"}]}])", "messages[0].content[0].type"},
      {R"([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}])",
       "messages[0].content[0].tool_use_id"},
      {R"([{"role": "user", "content": "x"}, {"role": "assistant", "content":
           [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}, {"role": "user", "content": "y"}])",
       "messages[1]"},
      {R"([{"role": "user", "content": "x"}, {"role": "assistant", "content":
           [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}])",
       "messages"},
      {R"([{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": 1}]}])",
       "messages[0].content[0].input"},
      {R"([{"role": "assistant", "content": [{"type": "tool_use", "id": "", "name": "f", "input": {}}]}])",
       "messages[0].content[0].id"},
  };
  for (const auto& [text, param] : messages) EXPECT_EQ(BadParam(text), param) << text;
  const std::pair<const char*, const char*> fields[] = {
      {R"(, "max_tokens": 1)", "max_tokens"},  // twice
      {R"(, "system": 1)", "system"},
      {R"(, "system": [{"type": "image"}])", "system[0].type"},
      {R"(, "temperature": 3)", "temperature"},
      {R"(, "top_k": 1.5)", "top_k"},
      {R"(, "stop_sequences": "x")", "stop_sequences"},
      {R"(, "stop_sequences": [""])", "stop_sequences"},
      {R"(, "thinking": {"type": "on"})", "thinking.type"},
      {R"(, "output_config": {"effort": "huge"})", "output_config.effort"},
      {R"(, "metadata": {"user_id": 1})", "metadata.user_id"},
      {R"(, "service_tier": "fast")", "service_tier"},
      {R"(, "stream": 1)", "stream"},
      {R"(, "tools": [{"type": "web_search_20250305", "name": "web_search"}])", "tools[0].type"},
      {R"(, "tools": [{"name": "f"}])", "tools[0].input_schema"},
      {R"(, "tools": [{"input_schema": {}}])", "tools[0].name"},
      {R"(, "tool_choice": {"type": "any"})", "tool_choice"},
      {R"(, "tool_choice": {"type": "some"})", "tool_choice.type"},
      {R"(, "mcp_servers": [{"url": "http://x"}])", "mcp_servers"},
      {R"(, "container": "c")", "container"},
  };
  for (const auto& [text, param] : fields) EXPECT_EQ(BadParam(kHi, text), param) << text;
  const auto without = ParseMessagesBody(R"({"model": "m", "messages": [{"role": "user", "content": "x"}]})",
                                         ParseLimits{kSizeLimits, 4096}, kSigner, false);
  EXPECT_EQ(std::get<ApiError>(without).param, "max_tokens");
}

}  // namespace
}  // namespace longshelf::router
