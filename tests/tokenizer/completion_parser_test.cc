#include "tokenizer/completion_parser.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "answer_pieces.h"
#include "random_text.h"
#include "testing/fixtures.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_json.h"

namespace longshelf::tokenizer {
namespace {

using Kind = AnswerPiece::Kind;
constexpr std::string_view kDsml = "｜DSML｜";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";

using testing::MessageOf;
using testing::ParseSplit;
using testing::ParseWhole;
using testing::Print;

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

TEST(CompletionParser, EveryByteSplitGivesTheSamePieces) {
  for (const Completion& c : Corpus()) {
    for (const StreamEnd end : {StreamEnd::kComplete, StreamEnd::kCutOff}) {
      for (const std::vector<std::string>& stops : {std::vector<std::string>{}, {"invoke", "e\n", "}"}}) {
        const std::string whole = Print(ParseWhole(c.text, c.mode, end, stops));
        EXPECT_EQ(Print(ParseSplit(
                      c.text, c.mode, [] { return size_t{1}; }, end, stops)),
                  whole);
        for (size_t cut = 1; cut < c.text.size(); ++cut) {
          size_t first = cut;
          const auto next_size = [&first] { return std::exchange(first, SIZE_MAX); };
          ASSERT_EQ(Print(ParseSplit(c.text, c.mode, next_size, end, stops)), whole)
              << "cut at " << cut << ": " << c.text;
        }
      }
    }
  }
}

TEST(CompletionParser, AgreesWithTheStrictParserWhereThatAccepts) {
  size_t accepted = 0;
  for (const Completion& c : Corpus()) {
    const auto strict = ParseCompletion(c.text, c.mode);
    if (!strict.ok()) continue;
    ++accepted;
    EXPECT_EQ(ChatMessageToJson(MessageOf(ParseWhole(c.text, c.mode))), ChatMessageToJson(*strict)) << c.text;
  }
  EXPECT_GE(accepted, 149u);
}

// A call of many parts, with what a model writes around it.
constexpr std::string_view kCall =
    "Let me look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"edit\">\n<｜DSML｜parameter name=\"path\" "
    "string=\"true\">a/b.cc</｜DSML｜parameter>\n<｜DSML｜parameter name=\"edits\" string=\"false\">[{\"old\": \"x\", "
    "\"new\": \"<y>\"}, 1.5, true]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

TEST(CompletionParser, NoCutOfACallBringsMarkupIntoText) {
  const auto full = MessageOf(ParseWhole(kCall, ThinkingMode::kChat)).tool_calls;
  ASSERT_EQ(full.size(), 1u);
  EXPECT_EQ(full[0].arguments, R"({"path": "a/b.cc", "edits": [{"old": "x", "new": "<y>"}, 1.5, true]})");
  for (size_t cut = 0; cut <= kCall.size(); ++cut) {
    const std::vector<AnswerPiece> pieces = ParseWhole(kCall.substr(0, cut), ThinkingMode::kChat, StreamEnd::kCutOff);
    const ChatMessage message = MessageOf(pieces);
    EXPECT_TRUE(std::string_view("Let me look.\n\n").starts_with(*message.content)) << cut << *message.content;
    if (message.tool_calls.empty()) continue;
    EXPECT_EQ(message.tool_calls[0].name, "edit");
    EXPECT_TRUE(full[0].arguments.starts_with(message.tool_calls[0].arguments)) << message.tool_calls[0].arguments;
    const bool is_complete = pieces.back().kind == Kind::kCallEnd;
    EXPECT_EQ(is_complete, nlohmann::json::accept(message.tool_calls[0].arguments)) << cut;
  }
}

TEST(CompletionParser, ArgumentsLeaveAsTheyAreWritten) {
  CompletionParser parser(ThinkingMode::kChat);
  std::vector<AnswerPiece> pieces;
  const auto push = [&](std::string_view text) {
    pieces.clear();
    parser.Push(text, pieces);
    return Print(pieces);
  };
  EXPECT_EQ(push("<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"), "\n");
  EXPECT_EQ(push("<｜DSML｜parameter name=\"a\" string=\"true\">one"), "T:f{\"a\": \"one\n");
  EXPECT_TRUE(parser.in_call());
  EXPECT_EQ(push(" \"two\"\n"), " \\\"two\\\"\n") << "a newline may belong to the markup";
  EXPECT_EQ(push("three <"), "\\nthree \n") << "and a bracket";
  EXPECT_EQ(push("</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"false\">[1, {\"c\": 2"),
            "<\", \"b\": [1, {\"c\": \n");
  EXPECT_EQ(push("5}, \"d"), "25}, \"d\n");
  EXPECT_EQ(push("e\"]</｜DSML｜parameter>"), "e\"]\n");
  EXPECT_EQ(push("</｜DSML｜invoke"), "}\nE\n");
  EXPECT_FALSE(parser.in_call());
}

TEST(CompletionParser, StopStringsApplyToTheAnswerOnly) {
  const std::vector<std::string> stops = {"END", "\n<｜DSML｜invoke"};
  const auto parse = [&](std::string_view text) {
    return Print(ParseWhole(text, ThinkingMode::kThinking, StreamEnd::kComplete, stops));
  };
  EXPECT_EQ(parse("no END yet</think>the END of it"), "R:no END yet\nC:the \n");
  EXPECT_EQ(parse("EN</think>D"), "R:EN\nC:D\n");
  EXPECT_EQ(parse(std::string("x</think>").append(kCall)), "R:x\nC:Let me look.\n") << "cut inside the block";
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
    const StreamEnd end = testing::Below(rng, 4) == 0 ? StreamEnd::kCutOff : StreamEnd::kComplete;
    const std::vector<AnswerPiece> whole = ParseWhole(text, mode, end);
    const std::string printed = Print(whole);
    const auto split = ParseSplit(
        text, mode, [&rng] { return 1 + testing::Below(rng, 9); }, end);
    ASSERT_EQ(Print(split), printed) << text;
    if (end == StreamEnd::kComplete) {
      for (const std::string& word : words) ASSERT_NE(printed.find(word), std::string::npos) << word << " in " << text;
    }
    const ChatMessage message = MessageOf(whole);
    ASSERT_EQ(message.content->find(kDsml), std::string::npos) << text;
    ASSERT_EQ(message.reasoning_content.find(kDsml), std::string::npos) << text;
    for (const ChatToolCall& call : message.tool_calls) {
      const bool is_open = end == StreamEnd::kCutOff && &call == &message.tool_calls.back();
      calls += is_open ? 0 : 1;
      ASSERT_TRUE(is_open || nlohmann::json::accept(call.arguments)) << call.arguments << " from " << text;
    }
  }
  EXPECT_GT(calls, 10'000u);
}

TEST(CompletionParser, MendsWhatModelsGetWrong) {
  const std::string open = "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n";
  const auto check = [](const char* what, const std::string& text, const std::string& pieces) {
    EXPECT_EQ(Print(ParseWhole(text, ThinkingMode::kChat)), pieces) << what;
  };
  check("one newline before the block", "x\n" + open + "</｜DSML｜invoke></｜DSML｜tool_calls>", "C:x\nT:f{}\nE\n");
  check("no block around the call", "x<｜DSML｜invoke name=\"f\"></｜DSML｜invoke>", "C:x\nT:f{}\nE\n");
  check("another string attribute, JSON inside",
        open + "<｜DSML｜parameter name=\"a\" string=\"maybe\">[1]</｜DSML｜parameter></｜DSML｜invoke>",
        "T:f{\"a\": [1]}\nE\n");
  check("no string attribute, text inside",
        open + "<｜DSML｜parameter name=\"a\">b c</｜DSML｜parameter></｜DSML｜invoke>", "T:f{\"a\": \"b c\"}\nE\n");
  check("a parameter that does not end",
        open + "<｜DSML｜parameter name=\"a\" string=\"true\">v\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "T:f{\"a\": \"v\"}\nE\n");
  check("a call that does not end", open + "</｜DSML｜tool_calls>", "T:f{}\nE\n");
  check("a call that the model ends in the middle", open + "<｜DSML｜parameter name=\"a\" string=\"true\">half",
        "T:f{\"a\": \"half\"}\nE\n");
  check("a call that the model ends in its head", open + "<｜DSML｜invoke name=\"g", "T:f{}\nE\n");
  check("text behind the block", open + "</｜DSML｜invoke>\n</｜DSML｜tool_calls>\n\ntail", "T:f{}\nE\nC:tail\n");
  check("text between calls", "a\n\n" + open + "</｜DSML｜invoke>\nb\n<｜DSML｜invoke name=\"g\">\n</｜DSML｜invoke>",
        "C:a\nT:f{}\nE\nC:\n\nb\nT:g{}\nE\n");
  check("a call without a name",
        "x<｜DSML｜invoke>\n<｜DSML｜parameter name=\"a\" string=\"true\">v</｜DSML｜parameter>\n"
        "</｜DSML｜invoke>",
        "C:x\n\nv\n");
  check("a parameter without a call", "x <｜DSML｜parameter name=\"a\" string=\"true\">v</｜DSML｜parameter> y",
        "C:x \n\nv\n\ny\n");
  check("a marker that is cut off", "text\n\n<｜DSML｜tool_ca", "C:text\n");
  check("what only looked like a marker", "text\n\n<｜DS", "C:text\n\n<｜DS\n");
  check("a marker of no meaning", "a ｜DSML｜ b </｜DSML｜c>", "C:a  b c>\n");
  check("an end of sentence", std::string("text\n\n").append(kEos), "C:text\n\n\n");
  check("text behind an end of sentence", std::string("a").append(kEos).append("b"), "C:ab\n");
}

TEST(CompletionParser, MakesJsonOfWhatIsNone) {
  const auto value = [](const std::string& text) {
    const std::string call = "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"false\">" + text +
                             "</｜DSML｜parameter>\n</｜DSML｜invoke>";
    const ChatMessage message = MessageOf(ParseWhole(call, ThinkingMode::kChat));
    const std::string& arguments = message.tool_calls.at(0).arguments;
    EXPECT_TRUE(nlohmann::json::accept(arguments)) << arguments;
    return arguments.substr(6, arguments.size() - 7);
  };
  for (const char* const json : {"1", " -0.5e3 ", "null", "\"a\\n\\u00e9\"", "[]", "{ }",
                                 "[1, [2, {\"a\": []}], \"]\"]", "{\"a\" : {\"b\": false},\n \"c\": \"\\\"\"}"}) {
    EXPECT_EQ(value(json), json) << "JSON stays as it is";
  }
  EXPECT_EQ(value(""), R"("")");
  EXPECT_EQ(value("two words"), R"("two words")");
  EXPECT_EQ(value("NaN"), R"("NaN")");
  EXPECT_EQ(value("\"two\nlines\""), R"("two\nlines")");
  EXPECT_EQ(value("\"C:\\dir \\u12\""), R"("C:\\dir \\u12")");
  EXPECT_EQ(value("\"a\" b"), R"("a\" b")");
  EXPECT_EQ(value("[1, 2, ]"), R"([1, 2 ])");
  EXPECT_EQ(value("{\"a\": 1,}"), R"({"a": 1})");
  EXPECT_EQ(value("[yes, 1x]"), R"(["yes", "1x"])");
  EXPECT_EQ(value("{oops"), R"({"": "oops"})");
  EXPECT_EQ(value("{\"a\" 1}"), R"({"a" : "1}"})");
  EXPECT_EQ(value("[1 2]"), R"([1 , "2]"])");
  EXPECT_EQ(value("[1} 2"), R"([1, "} 2"])");
  EXPECT_EQ(value("{\"a\": [1]] x"), R"({"a": [1], "": "] x"})");
  EXPECT_EQ(value("{\"a\": {\"b\": \"c"), R"({"a": {"b": "c"}})");
  EXPECT_EQ(value("{\"a\":"), R"({"a":null})");
  EXPECT_EQ(value("{\"a"), R"({"a": null})");
  EXPECT_EQ(value("[1] and more"), R"([1, "] and more"])");
  EXPECT_EQ(value(std::string(600, '[')).substr(0, 520), std::string(512, '[') + "\"[[[[[[[");
}

TEST(CompletionParser, SaysWhileTheModelReasons) {
  CompletionParser parser(ThinkingMode::kThinking);
  std::vector<AnswerPiece> pieces;
  EXPECT_TRUE(parser.in_reasoning());
  parser.Push("some thought</thi", pieces);
  EXPECT_EQ(Print(pieces), "R:some thought\n");
  EXPECT_TRUE(parser.in_reasoning());
  parser.Push("nk>", pieces);
  EXPECT_EQ(pieces.size(), 1u);
  EXPECT_FALSE(parser.in_reasoning());
  EXPECT_FALSE(CompletionParser(ThinkingMode::kChat).in_reasoning());
}

uint64_t Work(const std::string& text, size_t chunk) {
  CompletionParser parser(ThinkingMode::kThinking);
  std::vector<AnswerPiece> pieces;
  for (size_t pos = 0; pos < text.size(); pos += chunk) parser.Push(std::string_view(text).substr(pos, chunk), pieces);
  parser.Finish(StreamEnd::kComplete, pieces);
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
