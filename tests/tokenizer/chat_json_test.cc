#include "tokenizer/chat_json.h"

#include <gtest/gtest.h>

namespace longshelf::tokenizer {
namespace {

std::string ErrorOf(std::string_view json, const ChatJsonLimits& limits = {}) {
  return std::string(ParseChatMessages(json, limits).status().message());
}

TEST(ChatJson, ReadsEveryField) {
  const auto messages = ParseChatMessages(R"([
    {"role": "system", "content": "s", "tools": [{"type": "function", "function": {"name": "f", "z": 1.50, "a": 12345678901234567890}}],
     "response_format": {"type": "json_object"}},
    {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "x"}}], "task": "query"},
    {"role": "assistant", "content": null, "reasoning_content": "r", "wo_eos": true, "mask": 1,
     "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
                    {"function": {"id": "c2", "name": "g", "arguments": {"y": [1.0]}}}, {"function": {"name": "h"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "done", "unknown": {"deep": []}}])");
  ASSERT_TRUE(messages.ok()) << messages.status();
  ASSERT_EQ(messages->size(), 4u);
  const ChatMessage& system = (*messages)[0];
  ASSERT_EQ(system.tools.size(), 1u);
  EXPECT_EQ(system.tools[0], R"({"name": "f", "z": 1.5, "a": 12345678901234567890})");
  EXPECT_EQ(system.response_format, R"({"type": "json_object"})");
  const ChatMessage& user = (*messages)[1];
  EXPECT_TRUE(user.content_is_parts);
  ASSERT_EQ(user.parts.size(), 2u);
  EXPECT_EQ(user.parts[0].text, "t");
  EXPECT_EQ(user.parts[1].type, "image_url");
  EXPECT_EQ(user.task, "query");
  const ChatMessage& assistant = (*messages)[2];
  EXPECT_EQ(assistant.content, std::nullopt);
  EXPECT_EQ(assistant.reasoning_content, "r");
  EXPECT_TRUE(assistant.wo_eos);
  EXPECT_TRUE(assistant.mask);
  ASSERT_EQ(assistant.tool_calls.size(), 3u);
  EXPECT_EQ(assistant.tool_calls[0].id, "c1");
  EXPECT_EQ(assistant.tool_calls[0].arguments, R"({"x": 1})");
  EXPECT_EQ(assistant.tool_calls[1].id, "c2");
  EXPECT_EQ(assistant.tool_calls[1].arguments, R"({"y": [1.0]})");
  EXPECT_EQ(assistant.tool_calls[2].arguments, "{}");
  EXPECT_EQ((*messages)[3].tool_call_id, "c1");
}

TEST(ChatJson, ErrorsNameThePathOfTheField) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"{}", "messages: must be a list"},
      {"[]", "messages: must have at least one message"},
      {"[1]", "messages[0]: must be an object"},
      {"[{}]", "messages[0].role: must be a string that is not empty"},
      {R"([{"role": 1}])", "messages[0].role: must be a string"},
      {R"([{"role": "user", "content": {}}])", "messages[0].content: must be a string or a list of parts"},
      {R"([{"role": "user", "content": ["x"]}])", "messages[0].content[0]: must be an object"},
      {R"([{"role": "user", "content": [{"text": "x"}]}])",
       "messages[0].content[0].type: must be a string that is not empty"},
      {R"([{"role": "user", "content": [{"type": "text", "text": 1}]}])",
       "messages[0].content[0].text: must be a string"},
      {R"([{"role": "user"}, {"role": "assistant", "tool_calls": {}}])", "messages[1].tool_calls: must be a list"},
      {R"([{"role": "assistant", "tool_calls": [{}]}])", "messages[0].tool_calls[0].function: is missing"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}])",
       "messages[0].tool_calls[0].function.name: must be a string that is not empty"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}])",
       "messages[0].tool_calls[0].function.arguments: must be the text of a JSON object"},
      {R"([{"role": "system", "tools": [{"function": {}}, {"function": []}]}])",
       "messages[0].tools[1].function: must be an object"},
      {R"([{"role": "assistant", "reasoning_content": []}])", "messages[0].reasoning_content: must be a string"},
      {"[", "messages: not JSON at byte 1: a value is missing"},
  };
  for (const auto& [json, message] : cases) EXPECT_EQ(ErrorOf(json), message) << json;
}

TEST(ChatJson, LimitsAreNamed) {
  ChatJsonLimits limits;
  limits.messages_max = 1;
  EXPECT_EQ(ErrorOf(R"([{"role": "user"}, {"role": "user"}])", limits), "messages: has 2 entries, the limit is 1");
  limits.parts_max = 0;
  EXPECT_EQ(ErrorOf(R"([{"role": "user", "content": [{"type": "text"}]}])", limits),
            "messages[0].content: has 1 entries, the limit is 0");
  limits.tool_calls_max = 0;
  EXPECT_EQ(ErrorOf(R"([{"role": "user", "tool_calls": [1]}])", limits),
            "messages[0].tool_calls: has 1 entries, the limit is 0");
  limits.tools_max = 0;
  EXPECT_EQ(ErrorOf(R"([{"role": "user", "tools": [1]}])", limits), "messages[0].tools: has 1 entries, the limit is 0");
  EXPECT_EQ(ErrorOf(R"([{"role": ")" + std::string(300, 'x') + R"("}])"),
            "messages[0].role: has 300 bytes, the limit is 256");
  limits.json.bytes_max = 4;
  EXPECT_EQ(ErrorOf("[    ]", limits), "messages: JSON of 6 bytes, the limit is 4");
}

TEST(ChatJson, ToolDefinitionsComeWithTheRequestToo) {
  const auto tools = ParseToolDefinitions(R"([{"type":"function","function":{"name":"f"}}])");
  ASSERT_TRUE(tools.ok()) << tools.status();
  EXPECT_EQ(*tools, std::vector<std::string>{R"({"name": "f"})"});
  EXPECT_EQ(ParseToolDefinitions("[{}]", {}, "body.tools").status().message(),
            "body.tools[0].function: must be an object");
  EXPECT_EQ(ParseToolDefinitions("7").status().message(), "tools: must be a list");

  std::vector<ChatMessage> messages(1);
  messages[0].role = "user";
  AttachTools({}, messages);
  EXPECT_EQ(messages.size(), 1u);
  AttachTools(*tools, messages);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].role, "system");
  AttachTools({"second"}, messages);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].tools, (std::vector<std::string>{R"({"name": "f"})", "second"}));
}

TEST(ChatJson, MessagesAreWrittenInTheFormThatIsRead) {
  ChatMessage message;
  message.role = "assistant";
  message.content = "Ünï \"quoted\"\n";
  message.reasoning_content = "\x01";
  message.tool_calls = {{"id7", "f", "{\"a\": 1}"}, {"", "g", ""}};
  const std::string json = ChatMessageToJson(message);
  EXPECT_EQ(
      json,
      R"({"role": "assistant", "content": "Ünï \"quoted\"\n", "reasoning_content": "\u0001", )"
      R"("tool_calls": [{"id": "id7", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}, )"
      R"({"type": "function", "function": {"name": "g", "arguments": ""}}]})");
  const auto back = ParseChatMessages("[" + json + "]");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->at(0).content, message.content);
  EXPECT_EQ(back->at(0).tool_calls[1].name, "g");
}

}  // namespace
}  // namespace longshelf::tokenizer
