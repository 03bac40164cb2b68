#include "tokenizer/json_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "random_text.h"
#include "tokenizer/chat.h"

namespace longshelf::tokenizer {
namespace {

std::string Dump(std::string_view json) {
  const auto dumped = DumpJsonPythonStyle(json);
  return dumped.ok() ? *dumped : std::string("error: ") + std::string(dumped.status().message());
}

TEST(JsonText, IsDumpedAsPythonDoes) {
  // The right side is what json.dumps(json.loads(left), ensure_ascii=False) prints.
  const std::pair<std::string_view, std::string_view> cases[] = {
      {R"({"b":1,"a":[1,2,{"c":null}],"d":{},"e":[]})", R"({"b": 1, "a": [1, 2, {"c": null}], "d": {}, "e": []})"},
      {R"( [ true , false ] )", R"([true, false])"},
      {R"({"a":1,"b":2,"a":3})", R"({"a": 3, "b": 2})"},
      {R"("\u00e9\ud83d\ude00\/\"\\\b\f\n\r\t\u0001\u007f\u2028")", "\"é😀/\\\"\\\\\\b\\f\\n\\r\\t\\u0001\x7f\u2028\""},
      {R"("\ud800 \udc00\ud800\u0041")", "\"\uFFFD \uFFFD\uFFFDA\""},
      {"-0", "0"},
      {"-0.0", "-0.0"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"1.0", "1.0"},
      {"1.50", "1.5"},
      {"0.1", "0.1"},
      {"1e5", "100000.0"},
      {"1E+2", "100.0"},
      {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},
      {"1e20", "1e+20"},
      {"1e-4", "0.0001"},
      {"1e-5", "1e-05"},
      {"-1.5e-7", "-1.5e-07"},
      {"123456.789e3", "123456789.0"},
      {"9007199254740993.0", "9007199254740992.0"},
      {"5e-324", "5e-324"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"1e400", "Infinity"},
      {"-1e400", "-Infinity"},
      {"1e-400", "0.0"},
      {"[NaN, Infinity, -Infinity]", "[NaN, Infinity, -Infinity]"},
  };
  for (const auto& [json, expected] : cases) EXPECT_EQ(Dump(json), expected) << json;
}

TEST(JsonText, WhatIsNotJsonIsRefusedWithItsPlace) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"", "at byte 0: a value is missing"},
      {"[1,]", "at byte 3: a value is missing"},
      {"[1", "at byte 2: ',' or ']' is missing"},
      {"{\"a\" 1}", "at byte 5: ':' is missing"},
      {"{a: 1}", "at byte 1: a member name is missing"},
      {"\"abc", "a string does not end"},
      {"\"a\nb\"", "a control character"},
      {"\"\\x\"", "an unknown escape"},
      {"\"\\u12g4\"", "four hexadecimal digits"},
      {"\"\\", "a string does not end"},
      {"01", "text behind the value"},
      {"1.", "digits are missing"},
      {"1e", "an exponent without digits"},
      {"-", "a value is missing"},
      {"+1", "a value is missing"},
      {"nul", "a value is missing"},
      {"{} x", "text behind the value"},
      {"\"\xFF\"", "at byte 1: invalid UTF-8"},
      {"\xEF\xBB\xBF{}", "a value is missing"},
  };
  for (const auto& [json, message] : cases) {
    const auto parsed = JsonText::Parse(json);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_NE(std::string(parsed.status().message()).find(message), std::string::npos) << parsed.status();
  }
}

TEST(JsonText, LimitsHoldAndAreNamed) {
  const auto message = [](std::string_view json, const JsonLimits& limits) {
    return std::string(JsonText::Parse(json, limits).status().message());
  };
  EXPECT_NE(message("[[[]]]", {.depth_max = 2}).find("nested deeper than 2"), std::string::npos);
  EXPECT_EQ(message("[[]]", {.depth_max = 2}), "");
  EXPECT_NE(message("[1,2,3]", {.values_max = 3}).find("more than 3 values"), std::string::npos);
  EXPECT_NE(message("[1,2,3]", {.bytes_max = 6}).find("the limit is 6"), std::string::npos);
  EXPECT_NE(message("NaN", {}).find("a value is missing"), std::string::npos);
  EXPECT_NE(message(std::string(1'000'000, '['), {.depth_max = 1u << 30}).find("nested deeper than 1000"),
            std::string::npos);
  EXPECT_NE(message(std::string(5000, '1'), {}).find("more than 4300 digits"), std::string::npos);
}

TEST(JsonText, AcceptsWhatAnotherParserAccepts) {
  std::mt19937_64 rng(8);
  constexpr std::string_view kTokens[] = {"{",     "}",  "[",        "]",           ",",    ":",        "\"a\"",
                                          "\"b\"", "1",  " -0.5e3 ", "true",        "null", "\"é\\n\"", " \n",
                                          "{}",    "[]", "0",        "\"\\u00e9\"", "x"};
  size_t accepted = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string text = round % 2 == 0 ? "{\"k\":[" : "";
    for (size_t n = testing::Below(rng, 8); n > 0; --n) text += testing::Pick(rng, kTokens);
    if (round % 2 == 0) text += "]}";
    const auto parsed = JsonText::Parse(text);
    ASSERT_EQ(parsed.ok(), nlohmann::json::accept(text)) << text;
    if (!parsed.ok()) continue;
    ++accepted;
    std::string dumped;
    parsed->root().DumpTo(dumped);
    ASSERT_EQ(nlohmann::json::parse(dumped), nlohmann::json::parse(text));
  }
  EXPECT_GT(accepted, 5'000u);
}

TEST(JsonText, ManyMembersAreReadInLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += "\"key" + std::to_string(i % 60'000) + "\": " + std::to_string(i) + ",";
  text += "\"last\": 0}";
  const auto parsed = JsonText::Parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto members = parsed->root().AsMembers();
  ASSERT_EQ(members.size(), 60'001u);
  EXPECT_EQ(members[0].first, "key0");
  EXPECT_EQ(members[0].second.AsUint64(), 60'000u) << "the last value at the first place";
}

TEST(JsonText, TruthIsPythons) {
  for (const char* const json : {"null", "false", "0", "-0", "0.0", "0e5", "\"\"", "[]", "{}"}) {
    EXPECT_FALSE(JsonText::Parse(json)->root().truthy()) << json;
  }
  for (const char* const json : {"true", "1", "0.1", "1e-5", "\"0\"", "[0]", "{\"\": 0}"}) {
    EXPECT_TRUE(JsonText::Parse(json)->root().truthy()) << json;
  }
}

}  // namespace
}  // namespace longshelf::tokenizer
