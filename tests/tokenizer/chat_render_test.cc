#include <gtest/gtest.h>

#include "answer_pieces.h"
#include "random_text.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer {
namespace {

constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";

ChatMessage Message(std::string role, std::string content) {
  ChatMessage message;
  message.role = std::move(role);
  message.content = std::move(content);
  return message;
}

std::string Render(const std::vector<ChatMessage>& messages, const ChatOptions& options) {
  const auto prompt = RenderChat(messages, options);
  EXPECT_TRUE(prompt.ok()) << prompt.status();
  return prompt.value_or("");
}

// Text as models write it: no markup of the protocol in it.
std::string PlainText(std::mt19937_64& rng) {
  constexpr std::string_view kWords[] = {"word ",      "東京",    "\n\n", "2>&1 ", "｜",
                                         "\"quoted\"", "{json: ", "é",    "<b>",   "🚀"};
  std::string out;
  for (size_t n = testing::Below(rng, 6); n > 0; --n) out += testing::Pick(rng, kWords);
  return out;
}

struct Sampled {
  ChatMessage message;
  std::string text;
};

// What a model may answer, and the message that a client sends back for it. Arguments are spelled as Python would.
Sampled RandomAnswer(std::mt19937_64& rng, ThinkingMode mode, int& next_id) {
  Sampled out;
  if (mode == ThinkingMode::kThinking) out.text += "reasoning " + PlainText(rng) + "</think>";
  out.text += "answer " + PlainText(rng);
  if (testing::Below(rng, 2) == 0) {
    out.text += "\n\n<｜DSML｜tool_calls>\n";
    for (size_t calls = 1 + testing::Below(rng, 3); calls > 0; --calls) {
      out.text += "<｜DSML｜invoke name=\"f\">\n";
      std::string parameters;
      for (const char* const name : {"a", "b", "größe"}) {
        if (testing::Below(rng, 2) == 0) continue;
        constexpr std::string_view kValues[] = {"1", "[1, 2.5]", "{\"k\": null}", "true", "\"s\""};
        const bool is_string = testing::Below(rng, 2) == 0;
        // A JSON string would come back as a string parameter: models write string="true" for those.
        std::string value = is_string ? PlainText(rng) : std::string(kValues[testing::Below(rng, 4)]);
        if (!parameters.empty()) parameters += '\n';
        parameters += std::string("<｜DSML｜parameter name=\"") + name + "\" string=\"" +
                      (is_string ? "true" : "false") + "\">" + value + "</｜DSML｜parameter>";
      }
      out.text += parameters + "\n</｜DSML｜invoke>\n";
    }
    out.text += "</｜DSML｜tool_calls>";
  }
  out.text += kEos;
  out.message = testing::MessageOf(testing::ParseWhole(out.text, mode));
  for (ChatToolCall& call : out.message.tool_calls) call.id = "call_" + std::to_string(next_id++);
  return out;
}

// What a client may say next.
std::vector<ChatMessage> RandomInput(std::mt19937_64& rng, const ChatMessage* answer) {
  std::vector<ChatMessage> out;
  if (answer != nullptr) {
    for (const ChatToolCall& call : answer->tool_calls) {
      out.push_back(Message("tool", PlainText(rng)));
      out.back().tool_call_id = call.id;
    }
    if (!out.empty() && testing::Below(rng, 2) == 0) std::swap(out.front(), out.back());
  }
  if (out.empty() || testing::Below(rng, 3) == 0) out.push_back(Message("user", PlainText(rng)));
  if (testing::Below(rng, 6) == 0) out.push_back(Message("developer", "rule " + PlainText(rng)));
  if (testing::Below(rng, 6) == 0) out.push_back(Message("latest_reminder", PlainText(rng)));
  if (out.back().role == "latest_reminder") out.push_back(Message("user", "go"));
  return out;
}

TEST(RenderChat, IsAppendOnlyWhereThinkingIsKept) {
  std::mt19937_64 rng(9);
  int next_id = 0;
  for (int round = 0; round < 2000; ++round) {
    ChatOptions options;
    options.thinking_mode = testing::Below(rng, 2) == 0 ? ThinkingMode::kThinking : ThinkingMode::kChat;
    options.dialect = testing::Below(rng, 2) == 0 ? ChatDialect::kPreview : ChatDialect::k0731;
    options.reasoning_effort = testing::Below(rng, 2) == 0 ? "max" : "";
    options.drop_thinking = testing::Below(rng, 2) == 0;
    std::vector<ChatMessage> history;
    if (options.drop_thinking || testing::Below(rng, 2) == 0) {
      history.push_back(Message("system", PlainText(rng)));
      history.back().tools = {R"({"name": "f"})"};  // with tools nothing is dropped
    }
    std::string expected;
    const ChatMessage* answer = nullptr;
    for (int turn = 0; turn < 4; ++turn) {
      for (ChatMessage& message : RandomInput(rng, answer)) history.push_back(std::move(message));
      const std::string prompt = Render(history, options);
      ASSERT_TRUE(prompt.starts_with(expected)) << prompt << "\n---\n" << expected;
      Sampled sampled = RandomAnswer(rng, options.thinking_mode, next_id);
      history.push_back(std::move(sampled.message));
      answer = &history.back();
      expected = prompt + sampled.text;
      ASSERT_EQ(Render(history, options), expected);
    }
    EXPECT_FALSE(options.thinking_mode == ThinkingMode::kThinking && ThinkingIsDropped(history, options));
  }
}

TEST(RenderChat, AppendsTheSampledTurnEvenWhereThinkingIsDroppedLater) {
  ChatOptions options;  // thinking, drop_thinking
  std::mt19937_64 rng(10);
  int next_id = 0;
  for (int round = 0; round < 500; ++round) {
    std::vector<ChatMessage> history = {Message("user", "one")};
    for (int turn = 0; turn < 3; ++turn) {
      const std::string prompt = Render(history, options);
      Sampled sampled = RandomAnswer(rng, options.thinking_mode, next_id);
      history.push_back(sampled.message);
      ASSERT_EQ(Render(history, options), prompt + sampled.text);
      history.push_back(Message("user", "next"));
    }
  }
}

// The exception that the header documents: this is the reference's behaviour, and drop_thinking = false avoids it.
TEST(RenderChat, ANewUserTurnDropsEarlierReasoningUnlessToldNotTo) {
  ChatMessage answer = Message("assistant", "A");
  answer.reasoning_content = "R";
  const std::vector<ChatMessage> before = {Message("user", "U"), answer};
  std::vector<ChatMessage> after = before;
  after.push_back(Message("user", "V"));
  ChatOptions options;
  EXPECT_TRUE(ThinkingIsDropped(after, options));
  EXPECT_EQ(Render(after, options),
            "<｜begin▁of▁sentence｜><｜User｜>U<｜Assistant｜></"
            "think>A<｜end▁of▁sentence｜><｜User｜>V<｜Assistant｜><think>");
  EXPECT_FALSE(Render(after, options).starts_with(Render(before, options)));
  options.drop_thinking = false;
  EXPECT_FALSE(ThinkingIsDropped(after, options));
  EXPECT_TRUE(Render(after, options).starts_with(Render(before, options)));
}

TEST(RenderChat, SampledTextReplacesWhatItWasParsedFrom) {
  // JSON that Python would print with blanks.
  const std::string sampled =
      "R</think>A\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
      "<｜DSML｜parameter name=\"x\" string=\"false\">{\"a\":1e5}</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  ChatMessage answer = *ParseCompletion(sampled, ThinkingMode::kThinking);
  ChatOptions options;
  options.drop_thinking = false;
  const std::string prompt = Render({Message("user", "U")}, options);
  EXPECT_NE(Render({Message("user", "U"), answer}, options), prompt + sampled);
  answer.sampled_text = sampled;
  EXPECT_EQ(Render({Message("user", "U"), answer}, options), prompt + sampled);
  // Not where reasoning is dropped, and not in another mode.
  options.drop_thinking = true;
  EXPECT_EQ(Render({Message("user", "U"), answer, Message("user", "V")}, options).find("R</think>"), std::string::npos);
  options.thinking_mode = ThinkingMode::kChat;
  EXPECT_EQ(Render({Message("user", "U"), answer}, options).find("R</think>"), std::string::npos);
}

TEST(RenderChat, ArgumentsThatAreNoObjectAreOneStringParameter) {
  for (const char* const arguments : {"", "not json", "[1]", "7", "\"s\"", "{\"a\": 1} tail", "{\"a\": \"\n\"}"}) {
    ChatMessage answer = Message("assistant", "");
    answer.tool_calls = {{"", "f", arguments}};
    ChatOptions options;
    options.thinking_mode = ThinkingMode::kChat;
    EXPECT_NE(Render({Message("user", "U"), answer}, options)
                  .find(std::string("<｜DSML｜parameter name=\"arguments\" string=\"true\">") + arguments +
                        "</｜DSML｜parameter>"),
              std::string::npos)
        << arguments;
  }
}

TEST(RenderChat, PartsOfAnyRoleAreJoined) {
  ChatMessage user = Message("user", "ignored");
  user.content_is_parts = true;
  user.parts = {{"text", "one"}, {"image_url", ""}, {"text", "two"}};
  ChatOptions options;
  options.thinking_mode = ThinkingMode::kChat;
  EXPECT_EQ(Render({user}, options),
            "<｜begin▁of▁sentence｜><｜User｜>one\n\n[Unsupported image_url]\n\ntwo<｜Assistant｜></think>");
}

TEST(RenderChat, WhatTheModelDoesNotKnowIsRefused) {
  ChatOptions options;
  EXPECT_EQ(RenderChat({Message("robot", "")}, options).status().message(), "messages[0].role: \"robot\" is unknown");
  ChatMessage task = Message("user", "");
  task.task = "dance";
  EXPECT_EQ(RenderChat({task}, options).status().message(), "messages[0].task: \"dance\" is unknown");
  EXPECT_FALSE(RenderChat({Message("developer", "")}, options).ok());
  options.reasoning_effort = "low";
  EXPECT_FALSE(RenderChat({Message("user", "")}, options).ok());
  options.dialect = ChatDialect::k0731;
  EXPECT_TRUE(RenderChat({Message("user", "")}, options).ok());
  options.reasoning_effort = "MAX";
  EXPECT_FALSE(RenderChat({Message("user", "")}, options).ok());
}

}  // namespace
}  // namespace longshelf::tokenizer
