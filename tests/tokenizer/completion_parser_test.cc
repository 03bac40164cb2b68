#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "random_text.h"
#include "testing/fixtures.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_json.h"

namespace longshelf::tokenizer {
namespace {

using Event = CompletionParser::Event;
constexpr std::string_view kDsml = "｜DSML｜";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";

// Events with neighbouring deltas joined: what must not depend on the split.
struct Collector {
  std::vector<Event> events;
  void Add(std::vector<Event> more) {
    for (Event& event : more) {
      if (event.kind != Event::Kind::kToolCall && !events.empty() && events.back().kind == event.kind) {
        events.back().text += event.text;
      } else {
        events.push_back(std::move(event));
      }
    }
  }
  ChatMessage Message() const {
    ChatMessage message;
    message.role = "assistant";
    message.content = "";
    for (const Event& event : events) {
      if (event.kind == Event::Kind::kReasoning) message.reasoning_content += event.text;
      if (event.kind == Event::Kind::kContent) *message.content += event.text;
      if (event.kind == Event::Kind::kToolCall) message.tool_calls.push_back(event.tool_call);
    }
    return message;
  }
  // One line per event.
  std::string Print() const {
    std::string out;
    for (const Event& event : events) {
      out += event.kind == Event::Kind::kReasoning ? "R:" : event.kind == Event::Kind::kContent ? "C:" : "T:";
      out += event.text + event.tool_call.name + event.tool_call.arguments + "\n";
    }
    return out;
  }
};

Collector ParseWhole(std::string_view text, ThinkingMode mode) {
  CompletionParser parser(mode);
  Collector out;
  out.Add(parser.Push(text));
  out.Add(parser.Finish());
  return out;
}

template <typename NextSize>
Collector ParseSplit(std::string_view text, ThinkingMode mode, NextSize&& next_size) {
  CompletionParser parser(mode);
  Collector out;
  while (!text.empty()) {
    const size_t n = std::min(next_size(), text.size());
    out.Add(parser.Push(text.substr(0, n)));
    text.remove_prefix(n);
  }
  out.Add(parser.Finish());
  return out;
}

struct Completion {
  std::string text;
  ThinkingMode mode;
};

std::vector<Completion> Corpus() {
  std::ifstream in(longshelf::testing::FixturePath("encoding/parse.json"));
  std::vector<Completion> out;
  for (const auto& c : nlohmann::json::parse(in)) {
    out.push_back(
        {c.at("completion"), c.at("thinking_mode") == "thinking" ? ThinkingMode::kThinking : ThinkingMode::kChat});
  }
  const char* const tricky[] = {
      "cat a 2>&1 | x ｜ y\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"sh\">\n<｜DSML｜parameter name=\"cmd\" "
      "string=\"true\">make 2>&1 | tee \"x\" ｜ </b> <｜ </｜DSM\n\n</｜DSML｜parameter>\n<｜DSML｜parameter "
      "name=\"o\" "
      "string=\"false\">{\"a\": {\"b\": [\"<｜\", \"</\", "
      "1e5]}}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
      "no block here: <｜DSML tool_calls> <｜DSML｜ <｜DSML｜tool_call ｜DSML｜｜DSML｜",
      "a\n\n\n\n<｜DSML｜tool_calls>\n</｜DSML｜tool_calls>\n\nb<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
      "</｜DSML｜invoke>\n</｜DSML｜function_calls>c",
      "reason\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls></think>x",
      "</think></think><think>\n\n\n<",
      "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"p\" string=\"true\">v\n<｜DSML｜parameter name=\"q\">2"
      "</｜DSML｜invoke>tail<｜end▁of▁sentence｜>more",
  };
  for (const char* const text : tricky) {
    out.push_back({text, ThinkingMode::kChat});
    out.push_back({text, ThinkingMode::kThinking});
  }
  return out;
}

TEST(CompletionParser, EveryByteSplitGivesTheSameEvents) {
  for (const Completion& c : Corpus()) {
    const std::string whole = ParseWhole(c.text, c.mode).Print();
    EXPECT_EQ(ParseSplit(c.text, c.mode, [] { return size_t{1}; }).Print(), whole);
    for (size_t cut = 1; cut < c.text.size(); ++cut) {
      size_t first = cut;
      const auto next_size = [&first] { return std::exchange(first, SIZE_MAX); };
      ASSERT_EQ(ParseSplit(c.text, c.mode, next_size).Print(), whole) << "cut at " << cut << ": " << c.text;
    }
  }
}

TEST(CompletionParser, AgreesWithTheStrictParserWhereThatAccepts) {
  size_t accepted = 0;
  for (const Completion& c : Corpus()) {
    const auto strict = ParseCompletion(c.text, c.mode);
    if (!strict.ok()) continue;
    ++accepted;
    EXPECT_EQ(ChatMessageToJson(ParseWhole(c.text, c.mode).Message()), ChatMessageToJson(*strict)) << c.text;
  }
  EXPECT_GE(accepted, 149u);
}

// Completions in pieces, right and wrong; words in all the places where text may stand.
std::string RandomCompletion(std::mt19937_64& rng, std::vector<std::string>& words) {
  constexpr std::string_view kMarkup[] = {"</think>",
                                          "\n\n<｜DSML｜tool_calls>\n",
                                          "<｜DSML｜tool_calls>",
                                          "</｜DSML｜tool_calls>",
                                          "<｜DSML｜invoke name=\"f\">\n",
                                          "</｜DSML｜invoke>\n",
                                          "</｜DSML｜invoke>",
                                          "<｜DSML｜parameter name=\"p\" string=\"true\">",
                                          "<｜DSML｜parameter name=\"p\" string=\"false\">",
                                          "</｜DSML｜parameter>\n",
                                          "</｜DSML｜parameter>",
                                          "｜DSML｜",
                                          "<｜DSML｜",
                                          "</｜DSML｜",
                                          "｜DS",
                                          "ML｜",
                                          "\n",
                                          " ",
                                          "<",
                                          ">",
                                          "\">",
                                          "<｜DSML｜invoke",
                                          "<｜DSML｜parameter",
                                          "｜",
                                          "2>&1",
                                          "{\"a\": 1}"};
  std::string out;
  const auto word = [&] {
    words.push_back("w" + std::to_string(rng() % 1'000'000'000) + ";");
    return words.back();
  };
  for (size_t n = 1 + testing::Below(rng, 14); n > 0; --n) {
    switch (testing::Below(rng, 5)) {
      case 0:
        out += word();
        break;
      case 1:  // a whole call
        out += "<｜DSML｜invoke name=\"" + word() + "\">\n<｜DSML｜parameter name=\"" + word() + "\" string=\"true\">" +
               word();
        out += "</｜DSML｜parameter>\n</｜DSML｜invoke>\n";
        break;
      default:
        out += testing::Pick(rng, kMarkup);
    }
  }
  return out;
}

TEST(CompletionParser, WhateverComesNoWordIsLostAndNoMarkerGetsOut) {
  std::mt19937_64 rng(11);
  size_t calls = 0;
  for (int round = 0; round < 60'000; ++round) {
    std::vector<std::string> words;
    const std::string text = RandomCompletion(rng, words);
    const auto mode = round % 2 == 0 ? ThinkingMode::kThinking : ThinkingMode::kChat;
    const Collector whole = ParseWhole(text, mode);
    const std::string printed = whole.Print();
    const Collector split = ParseSplit(text, mode, [&rng] { return 1 + testing::Below(rng, 9); });
    ASSERT_EQ(split.Print(), printed) << text;
    for (const std::string& word : words) ASSERT_NE(printed.find(word), std::string::npos) << word << " in " << text;
    const ChatMessage message = whole.Message();
    ASSERT_EQ(message.content->find(kDsml), std::string::npos) << text;
    ASSERT_EQ(message.reasoning_content.find(kDsml), std::string::npos) << text;
    for (const ChatToolCall& call : message.tool_calls) {
      ++calls;
      ASSERT_TRUE(nlohmann::json::accept(call.arguments)) << call.arguments << " from " << text;
    }
  }
  EXPECT_GT(calls, 10'000u);
}

TEST(CompletionParser, MendsWhatModelsGetWrong) {
  const std::string open = "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n";
  const auto check = [](const char* what, const std::string& text, const std::string& events) {
    EXPECT_EQ(ParseWhole(text, ThinkingMode::kChat).Print(), events) << what;
  };
  check("one newline before the block", "x\n" + open + "</｜DSML｜invoke></｜DSML｜tool_calls>", "C:x\nT:f{}\n");
  check("no block around the call", "x<｜DSML｜invoke name=\"f\"></｜DSML｜invoke>", "C:x\nT:f{}\n");
  check("another string attribute, JSON inside",
        open + "<｜DSML｜parameter name=\"a\" string=\"maybe\">[1]</｜DSML｜parameter></｜DSML｜invoke>",
        "T:f{\"a\": [1]}\n");
  check("no string attribute, text inside",
        open + "<｜DSML｜parameter name=\"a\">b c</｜DSML｜parameter></｜DSML｜invoke>", "T:f{\"a\": \"b c\"}\n");
  check("JSON that is none",
        open + "<｜DSML｜parameter name=\"a\" string=\"false\">{oops</｜DSML｜parameter></｜DSML｜invoke>",
        "T:f{\"a\": \"{oops\"}\n");
  check("a parameter that does not end",
        open + "<｜DSML｜parameter name=\"a\" string=\"true\">v\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "T:f{\"a\": \"v\"}\n");
  check("a call that does not end", open + "</｜DSML｜tool_calls>", "T:f{}\n");
  check("text behind the block", open + "</｜DSML｜invoke>\n</｜DSML｜tool_calls>\n\ntail", "T:f{}\nC:tail\n");
  check("text between calls", "a\n\n" + open + "</｜DSML｜invoke>\nb\n<｜DSML｜invoke name=\"g\">\n</｜DSML｜invoke>",
        "C:a\nT:f{}\nC:\n\nb\nT:g{}\n");
  check("a call without a name", "<｜DSML｜invoke>\n</｜DSML｜invoke>", "C:<|DSML|invoke>\n\n");
  check("a call that is cut off", open + "<｜DSML｜parameter name=\"a\" string=\"true\">half",
        "C:<|DSML|invoke name=\"f\">\n<|DSML|parameter name=\"a\" string=\"true\">half\n");
  check("a marker that is cut off", "text\n\n<｜DSML｜tool_ca", "C:text\n");
  check("what only looked like a marker", "text\n\n<｜DS", "C:text\n\n<｜DS\n");
  check("an end of sentence", std::string("text\n\n").append(kEos), "C:text\n\n\n");
  check("text behind an end of sentence", std::string("a").append(kEos).append("b"), "C:a<|end▁of▁sentence|>b\n");
}

TEST(CompletionParser, SaysWhileTheModelReasons) {
  CompletionParser parser(ThinkingMode::kThinking);
  EXPECT_TRUE(parser.in_reasoning());
  EXPECT_EQ(parser.Push("some thought</thi").at(0).text, "some thought");
  EXPECT_TRUE(parser.in_reasoning());
  EXPECT_TRUE(parser.Push("nk>").empty());
  EXPECT_FALSE(parser.in_reasoning());
  EXPECT_FALSE(CompletionParser(ThinkingMode::kChat).in_reasoning());
}

TEST(CompletionParser, CallsComeOutAsSoonAsTheyEnd) {
  CompletionParser parser(ThinkingMode::kChat);
  parser.Push("<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n");
  const std::vector<Event> events = parser.Push("</｜DSML｜invoke");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].tool_call.name, "f");
}

uint64_t Work(const std::string& text, size_t chunk) {
  CompletionParser parser(ThinkingMode::kThinking);
  for (size_t pos = 0; pos < text.size(); pos += chunk) parser.Push(std::string_view(text).substr(pos, chunk));
  parser.Finish();
  return parser.work();
}

TEST(CompletionParser, WorkIsLinearInHostileInput) {
  const std::string call = "<｜DSML｜invoke name=\"f\">\n";
  const std::pair<std::string, std::string> shapes[] = {
      {"", "<"},
      {"", "\n"},
      {"", "\n\n<｜DSML｜tool_call"},
      {"", "｜DSML｜"},
      {"", "</think"},
      {"</think>", std::string(kEos)},
      {"", "<｜DSML｜tool_calls>"},
      {call, "</｜DSML｜param"},
      {call + "<｜DSML｜parameter name=\"a\" string=\"true\">", "</｜DSML｜paramete"},
      {call, "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>"},
      {call, "<｜DSML｜parameter name=\"a\" string=\"false\">"},
      {"", call},
      {"", call + "</｜DSML｜invoke>"},
      {"", "<｜DSML｜tool_calls></｜DSML｜tool_calls>x"},
      {call + "<｜DSML｜parameter name=\"a\" string=\"false\">", "["},
  };
  for (const auto& [head, unit] : shapes) {
    for (const size_t chunk : {size_t{3}, size_t{SIZE_MAX / 2}}) {
      const auto text = [&head = head, &unit = unit](size_t bytes) {
        std::string out = head;
        while (out.size() < bytes) out += unit;
        return out;
      };
      const uint64_t one = Work(text(1u << 19), chunk);
      const uint64_t two = Work(text(1u << 20), chunk);
      EXPECT_LE(static_cast<double>(two), 2.2 * static_cast<double>(one)) << unit;
      EXPECT_LE(two, 20u * (1u << 20)) << unit;
    }
  }
}

}  // namespace
}  // namespace longshelf::tokenizer
