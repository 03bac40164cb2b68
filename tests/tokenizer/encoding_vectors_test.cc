#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "testing/fixtures.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_json.h"

namespace longshelf::tokenizer {
namespace {

using Json = nlohmann::ordered_json;

Json ReadFixture(const char* name) {
  std::ifstream in(testing::FixturePath(std::string("encoding/") + name));
  return Json::parse(in);
}

// The fixture's text of `messages`, as the reference printed it: nlohmann would print its numbers anew.
std::string FixtureText(const char* name) {
  std::ifstream in(testing::FixturePath(std::string("encoding/") + name));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(EncodingVectors, EveryCaseRendersByteForByte) {
  const std::string text = FixtureText("encode.json");
  const auto json = JsonText::Parse(text, {.values_max = 1u << 22});
  ASSERT_TRUE(json.ok()) << json.status();
  const auto cases = json->root().Elements();
  const Json expected = Json::parse(text);
  ASSERT_EQ(cases.size(), 160u);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Json& c = expected[i];
    ChatOptions options;
    options.thinking_mode = c.at("thinking_mode") == "thinking" ? ThinkingMode::kThinking : ThinkingMode::kChat;
    options.drop_thinking = c.at("drop_thinking");
    options.reasoning_effort = c.at("reasoning_effort").is_null() ? "" : c.at("reasoning_effort");
    options.dialect = c.at("dialect") == "0731" ? ChatDialect::k0731 : ChatDialect::kPreview;
    const auto members = cases[i].AsMembers();
    ASSERT_EQ(members[0].first, "messages");
    const auto messages = ParseChatMessages(members[0].second);
    ASSERT_TRUE(messages.ok()) << messages.status();
    const auto prompt = RenderChat(*messages, options);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, c.at("prompt").get<std::string>()) << "case " << i;
  }
}

TEST(EncodingVectors, EveryCompletionParsesAsTheReferenceDoesOrIsRefusedWithIt) {
  const Json cases = ReadFixture("parse.json");
  ASSERT_EQ(cases.size(), 160u);
  size_t refused = 0;
  for (const Json& c : cases) {
    const auto mode = c.at("thinking_mode") == "thinking" ? ThinkingMode::kThinking : ThinkingMode::kChat;
    const auto message = ParseCompletion(c.at("completion").get<std::string>(), mode);
    if (c.contains("error")) {
      ++refused;
      EXPECT_EQ(message.status().code(), absl::StatusCode::kInvalidArgument) << c.at("completion");
      continue;
    }
    ASSERT_TRUE(message.ok()) << message.status() << c.at("completion");
    EXPECT_EQ(Json::parse(ChatMessageToJson(*message)), c.at("message"));
  }
  EXPECT_EQ(refused, 11u);
}

}  // namespace
}  // namespace longshelf::tokenizer
