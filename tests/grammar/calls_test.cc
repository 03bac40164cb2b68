// Calls of tools: their form is what the chat encoding reads, and their arguments follow the schemas of strict tools.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "answer_pieces.h"
#include "plain_check.h"
#include "random_schema.h"
#include "texts.h"
#include "tokenizer/chat.h"

namespace longshelf::grammar::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using tokenizer::ThinkingMode;

constexpr char kEnd[] = "</｜DSML｜tool_calls>";

OutputSpec Calls(OutputSpec::Calls calls, std::vector<OutputSpec::Tool> tools) {
  OutputSpec spec;
  spec.calls = calls;
  spec.tools = std::move(tools);
  return spec;
}

std::string Call(const std::string& name, const std::string& parameters) {
  return "<｜DSML｜invoke name=\"" + name + "\">\n" + parameters + "\n</｜DSML｜invoke>\n";
}

std::string Block(const std::string& calls) { return "\n\n<｜DSML｜tool_calls>\n" + calls + kEnd; }

std::shared_ptr<const Grammar> Compiled(const OutputSpec& spec) {
  const auto grammar = Grammar::Compile(spec);
  EXPECT_TRUE(grammar.ok()) << grammar.status();
  return *grammar;
}

TEST(Calls, OfStrictToolsHaveTheParametersOfTheirSchemas) {
  const auto grammar = Compiled(Calls(
      OutputSpec::Calls::kRequired,
      {{"add", R"({"type":"object","properties":{"a":{"type":"integer"},"s":{"type":["string","null"],"maxLength":3}},
                   "required":["a"],"additionalProperties":false})"},
       {"free", ""}}));
  const std::string a = "<｜DSML｜parameter name=\"a\" string=\"false\">12</｜DSML｜parameter>";
  const std::string s = "<｜DSML｜parameter name=\"s\" string=\"true\">\"é</｜DSML｜parameter>";
  const std::string null = "<｜DSML｜parameter name=\"s\" string=\"false\">null</｜DSML｜parameter>";
  const std::string b = "<｜DSML｜parameter name=\"b\" string=\"true\"></｜DSML｜parameter>";
  for (const std::string& text :
       {Block(Call("add", a)), Block(Call("add", a + "\n" + s)), Block(Call("add", a + "\n" + null)),
        Block(Call("free", "") + Call("add", a)), Block(Call("free", b + "\n" + a))}) {
    EXPECT_TRUE(Allows(*grammar, text)) << text;
  }
  const std::string as_string = "<｜DSML｜parameter name=\"a\" string=\"true\">12</｜DSML｜parameter>";
  const std::string too_long = "<｜DSML｜parameter name=\"s\" string=\"true\">abcd</｜DSML｜parameter>";
  const std::string quoted = "<｜DSML｜parameter name=\"s\" string=\"false\">\"a\"</｜DSML｜parameter>";
  for (const std::string& text :
       {std::string(), std::string("Sure."), Block(""), Block(Call("add", "")), Block(Call("add", s)),
        Block(Call("add", as_string)), Block(Call("add", a + "\n" + too_long)), Block(Call("add", a + "\n" + quoted)),
        Block(Call("add", a + "\n" + b)), Block(Call("sub", a)), Block(Call("add", a)) + "\n",
        "Sure." + Block(Call("add", a))}) {
    EXPECT_FALSE(Allows(*grammar, text)) << text;
  }
}

TEST(Calls, ThatAreAllowedFollowAnyTextOrStandInPlaceOfTheAnswer) {
  OutputSpec spec = Calls(OutputSpec::Calls::kAllowed, {{"free", ""}});
  const std::string calls = Block(Call("free", ""));
  const auto text = Compiled(spec);
  for (const std::string& answer : {std::string(), std::string("Sure. <b>"), "Sure." + calls, calls}) {
    EXPECT_TRUE(Allows(*text, answer)) << answer;
  }
  EXPECT_FALSE(Allows(*text, calls + "more"));
  EXPECT_FALSE(Allows(*text, "<｜DSML｜invoke name=\"free\">"));
  spec.answer_schema = R"({"type":"integer"})";
  const auto schema = Compiled(spec);
  EXPECT_TRUE(Allows(*schema, "7"));
  EXPECT_TRUE(Allows(*schema, calls));
  EXPECT_FALSE(Allows(*schema, "Sure."));
  EXPECT_FALSE(Allows(*schema, "7" + calls));
}

TEST(Calls, AreAsManyAsAreAllowed) {
  OutputSpec spec = Calls(OutputSpec::Calls::kRequired, {{"free", ""}});
  spec.n_calls_max = 2;
  const auto grammar = Compiled(spec);
  const std::string call = Call("free", "");
  EXPECT_TRUE(Allows(*grammar, Block(call)));
  EXPECT_TRUE(Allows(*grammar, Block(call + call)));
  EXPECT_FALSE(Allows(*grammar, Block(call + call + call)));
}

TEST(Calls, ComeBehindTheThinkingWhichCannotCallOrEnd) {
  OutputSpec spec = Calls(OutputSpec::Calls::kRequired, {{"free", ""}});
  spec.after_thinking = true;
  const auto grammar = Compiled(spec);
  const std::string calls = Block(Call("free", ""));
  EXPECT_TRUE(Allows(*grammar, "hm < / </thin </think>" + calls));
  EXPECT_TRUE(Allows(*grammar, "</think>" + calls));
  for (const std::string& text : {std::string("hm"), calls, "hm</think>" + calls + "x", "</think>hm" + calls}) {
    EXPECT_FALSE(Allows(*grammar, text)) << text;
  }
}

TEST(Calls, OfNamesThatCannotBeWrittenAreRefused) {
  const auto refusal = [](const OutputSpec& spec) { return std::string(Grammar::Compile(spec).status().message()); };
  const auto required = OutputSpec::Calls::kRequired;
  EXPECT_THAT(refusal(Calls(required, {{"a", ""}, {"b\"c", ""}})), HasSubstr("tools[1]: name:"));
  EXPECT_THAT(refusal(Calls(required, {{"a", R"({"properties":{"x<y":{}}})"}})), HasSubstr("tools[0]: parameters:"));
  EXPECT_THAT(refusal(Calls(required, {{"a", R"({"type":"string"})"}})), HasSubstr("must allow an object"));
  EXPECT_THAT(refusal(Calls(required, {})), HasSubstr("none that may be called"));
  EXPECT_FALSE(Grammar::Compile({}).ok());
}

// What random schemas allow is read back by the parser of completions as calls whose arguments are valid.
TEST(Calls, AreReadAsCallsWithValidArguments) {
  const auto vocabulary = ByteVocabulary();
  size_t n_calls = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    auto schema = RandomSchema(random);
    schema["type"] = "object";
    OutputSpec spec = Calls(OutputSpec::Calls::kRequired, {{"f", schema.dump()}, {"g", ""}});
    spec.n_calls_max = 2;
    spec.after_thinking = seed % 2 == 0;
    const auto grammar = Grammar::Compile(spec);
    if (!grammar.ok()) continue;
    const json plain = json::parse(schema.dump());
    Constraint constraint(*grammar, vocabulary);
    std::string text;
    ASSERT_TRUE(RandomText(constraint, random, 60, text)) << "seed " << seed << " behind " << text.substr(0, 200);
    const auto pieces = tokenizer::testing::ParseWhole(
        text + "<｜end▁of▁sentence｜>", spec.after_thinking ? ThinkingMode::kThinking : ThinkingMode::kChat);
    const tokenizer::ChatMessage message = tokenizer::testing::MessageOf(pieces);
    ASSERT_EQ(message.content, "") << "seed " << seed << ": " << text;
    const size_t n_own = message.tool_calls.size();
    for (const auto& call : message.tool_calls) {
      ASSERT_TRUE(json::accept(call.arguments)) << "seed " << seed << ": " << text;
      if (call.name == "g") continue;
      ASSERT_EQ(call.name, "f");
      ASSERT_TRUE(PlainChecker(plain).IsValid(json::parse(call.arguments)))
          << "seed " << seed << ": " << text << " of " << schema.dump();
    }
    ASSERT_GT(n_own, 0u) << text;
    n_calls += n_own;
  }
  EXPECT_GT(n_calls, 150u);
}

}  // namespace
}  // namespace longshelf::grammar::testing
