#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "random_text.h"
#include "testing/fixtures.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_json.h"
#include "tokenizer/completion_parser.h"
#include "tokenizer/json_text.h"
#include "tokenizer/tokenizer.h"

// Inputs that no client means well with, through every public function. Worth most under the sanitizers.
namespace longshelf::tokenizer {
namespace {

std::shared_ptr<const Tokenizer> LoadDemo() { return *Tokenizer::Load(longshelf::testing::ModelPath("demo")); }

TEST(Hostile, RandomBytesAreTokenizedExactlyWhenTheyAreUtf8) {
  const auto tokenizer = LoadDemo();
  std::mt19937_64 rng(12);
  size_t refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = testing::RandomText(rng, 4);
    if (round % 2 == 0) text.insert(testing::Below(rng, text.size() + 1), testing::RandomBytes(rng, 3));
    const auto ids = tokenizer->Encode(text);
    ASSERT_EQ(ids.ok(), testing::IsUtf8(text));
    if (ids.ok()) {
      ASSERT_EQ(tokenizer->Decode(*ids), text);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5'000u);
}

TEST(Hostile, RandomIdsDecodeToValidUtf8) {
  const auto tokenizer = LoadDemo();
  std::mt19937_64 rng(13);
  for (int round = 0; round < 2'000; ++round) {
    std::vector<uint32_t> ids(testing::Below(rng, 50));
    for (uint32_t& id : ids) id = static_cast<uint32_t>(rng());
    if (round % 2 == 0) {
      for (uint32_t& id : ids) id %= tokenizer->vocab_size();
    }
    ASSERT_TRUE(testing::IsUtf8(tokenizer->Decode(ids)));
  }
}

TEST(Hostile, FourMebibytePromptsGoThroughOrStopEarly) {
  const auto tokenizer = LoadDemo();
  constexpr size_t kBytes = 4u << 20;
  for (const std::string_view unit :
       {"word ", "a", "<think>", "<｜", "｜DSML", "東京", "\n\n", "\u0301", "0", "!\n", "\t x"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    ChatMessage user;
    user.role = "user";
    user.content = text;
    const auto prompt = RenderChat({user}, {});
    ASSERT_TRUE(prompt.ok());
    const auto ids = tokenizer->Encode(*prompt);
    ASSERT_TRUE(ids.ok()) << ids.status();
    ASSERT_EQ(tokenizer->Decode(*ids), *prompt);
    EXPECT_EQ(tokenizer->Encode(*prompt, 1000).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(Hostile, DeepAndWideJsonIsRefusedNotFollowed) {
  const auto deep = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  for (const size_t depth : {size_t{65}, size_t{1000}, size_t{200'000}, size_t{4'000'000}}) {
    EXPECT_FALSE(ParseChatMessages(deep(depth)).ok());
    EXPECT_FALSE(ParseChatMessages(R"([{"role": "user", "x": )" + deep(depth) + "}]").ok());
    EXPECT_FALSE(ParseToolDefinitions(R"([{"function": {"a": )" + deep(depth) + "}}]").ok());
  }
  EXPECT_TRUE(ParseToolDefinitions(R"([{"function": {"a": )" + deep(50) + "}}]").ok());
  // In arguments too deep JSON is text.
  ChatMessage answer;
  answer.role = "assistant";
  answer.tool_calls = {{"", "f", "{\"a\": " + deep(200'000) + "}"}};
  const auto prompt = RenderChat({answer}, {});
  ASSERT_TRUE(prompt.ok());
  EXPECT_NE(prompt->find("name=\"arguments\" string=\"true\""), std::string::npos);
  std::string wide = "[";
  for (int i = 0; i < 1'000'000; ++i) wide += "0,";
  EXPECT_FALSE(ParseChatMessages(wide + "0]").ok());
}

TEST(Hostile, MutatedMessagesAreRefusedOrRendered) {
  const std::string good =
      R"([{"role": "system", "content": "s", "tools": [{"function": {"name": "f", "a": [1.5e3, null]}}],
    "response_format": {"t": 1}}, {"role": "user", "content": [{"type": "text", "text": "\u00e9\ud83d\ude00"}]},
    {"role": "assistant", "reasoning_content": "r", "content": null, "tool_calls": [{"id": "c", "function": {"name": "f",
    "arguments": "{\"a\": [1, {\"b\": \"c\"}], \"d\": -0.5}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "x"},
    {"role": "latest_reminder", "content": "l"}, {"role": "user", "content": "u", "task": "action"}])";
  const auto tokenizer = LoadDemo();
  std::mt19937_64 rng(14);
  size_t rendered = 0;
  for (int round = 0; round < 30'000; ++round) {
    std::string text = good;
    for (size_t n = testing::Below(rng, 4); n > 0; --n) {
      const size_t pos = testing::Below(rng, text.size());
      switch (testing::Below(rng, 3)) {
        case 0:
          text[pos] = static_cast<char>(rng());
          break;
        case 1:
          text.erase(pos, 1 + testing::Below(rng, 4));
          break;
        default:
          text.insert(pos, 1, testing::Pick(rng, std::string_view("\"{}[],:\\u0")));
      }
    }
    const auto messages = ParseChatMessages(text);
    ASSERT_TRUE(testing::IsUtf8(std::string(messages.status().message())));
    if (!messages.ok()) continue;
    const auto prompt = RenderChat(*messages, {});
    if (!prompt.ok()) continue;
    ++rendered;
    ASSERT_TRUE(tokenizer->Encode(*prompt).ok());
  }
  EXPECT_GT(rendered, 7'000u);
}

TEST(Hostile, RandomBytesAsCompletionsNeverCrashTheParsers) {
  std::mt19937_64 rng(15);
  constexpr std::string_view kMarkup[] = {"</think>",
                                          "\n\n<｜DSML｜tool_calls>\n",
                                          "<｜DSML｜invoke name=\"f\">\n",
                                          "<｜DSML｜parameter name=\"p\" string=\"false\">",
                                          "</｜DSML｜parameter>\n",
                                          "</｜DSML｜invoke>\n",
                                          "</｜DSML｜tool_calls>",
                                          "<｜end▁of▁sentence｜>"};
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (size_t n = testing::Below(rng, 12); n > 0; --n) {
      if (testing::Below(rng, 2) == 0) {
        text += testing::Pick(rng, kMarkup);
      } else {
        text += testing::RandomBytes(rng, testing::Below(rng, 6));
      }
    }
    for (const ThinkingMode mode : {ThinkingMode::kChat, ThinkingMode::kThinking}) {
      (void)ParseCompletion(text, mode);
      CompletionParser parser(mode);
      std::vector<AnswerPiece> pieces;
      for (size_t pos = 0; pos < text.size(); pos += 3) parser.Push(std::string_view(text).substr(pos, 3), pieces);
      parser.Finish(StreamEnd::kComplete, pieces);
      pieces.clear();
      parser.Finish(StreamEnd::kComplete, pieces);
      EXPECT_TRUE(pieces.empty());
    }
  }
}

// Stops that never come must not be searched for again and again.
TEST(Hostile, StrictParsingOfMegabytesIsLinear) {
  std::string text = "\n\n<｜DSML｜tool_calls>\n";
  while (text.size() < (4u << 20)) text += "<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>\n";
  text += "</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  const auto message = ParseCompletion(text, ThinkingMode::kChat);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_GT(message->tool_calls.size(), 80'000u);
}

}  // namespace
}  // namespace longshelf::tokenizer
