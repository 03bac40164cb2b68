// What answers a schema allows, in which form, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "texts.h"

namespace longshelf::grammar::testing {
namespace {

using ::testing::HasSubstr;

void ExpectAllows(const std::string& schema, const std::vector<std::string>& in, const std::vector<std::string>& out) {
  const auto grammar = CompileSchema(schema);
  ASSERT_NE(grammar, nullptr) << schema << ": " << Refusal(schema);
  for (const std::string& text : in) EXPECT_TRUE(Allows(*grammar, text)) << schema << " and " << text;
  for (const std::string& text : out) EXPECT_FALSE(Allows(*grammar, text)) << schema << " and " << text;
}

TEST(Schema, AnswersHaveOneFormOfBlanksEscapesAndNumbers) {
  ExpectAllows("{}", {"null", R"({"a": [1, {"b": "c"}], "d": {}})", R"("é\n\"\\\u0001")", "-0.5", "1.50e-3", "0", "[]"},
               {R"({"a":1})", R"({ "a": 1})", "[1,2]", "[1, 2 ]", R"("\u00e9")", R"("\/")", "01", "+1", "1.", ".5",
                "-0", "\"\n\"", "1e100", "1234567890123456789", "", "nul", "nullnull", "\"\xC3\"", "\"\xED\xA0\x80\""});
}

TEST(Schema, MembersComeInItsOrderAndThenTheOthers) {
  ExpectAllows(R"({"type":"object","properties":{"b":{"type":"integer"},"a":{},"c":{}},"required":["a"],
                   "additionalProperties":{"type":"null"}})",
               {R"({"a": 1})", R"({"b": 2, "a": 1, "c": 3})", R"({"a": 1, "x": null, "y": null})"},
               {R"({"a": 1, "b": 2})", R"({"b": 2})", "{}", R"({"x": null, "a": 1})", R"({"a": 1, "x": 1})",
                R"({"a": 1, "b": null})"});
}

TEST(Schema, MarkupOfTheChatIsInNoString) {
  const std::string marker = "｜DSML｜";
  ExpectAllows(R"({"type":"string"})", {R"("a｜DSML")", "\"｜\""},
               {"\"" + marker + "\"", "\"x<｜end▁of▁sentence｜>\""});
  ExpectAllows(R"({"enum":["a","｜DSML｜"]})", {"\"a\""}, {"\"" + marker + "\""});
  EXPECT_THAT(Refusal(R"({"const":"｜DSML｜"})"), HasSubstr("no value that can be written"));
}

TEST(Schema, LengthsAndCountsMayBeLarge) {
  const auto grammar = CompileSchema(R"({"type":"array","minItems":300,"maxItems":100000,
                                        "items":{"type":"string","minLength":2,"maxLength":50000}})");
  ASSERT_NE(grammar, nullptr);
  EXPECT_LT(grammar->n_states(), 2000u);
  const auto list = [](size_t n, const std::string& item) {
    std::string out = "[";
    for (size_t i = 0; i < n; ++i) absl::StrAppend(&out, i > 0 ? ", " : "", "\"", item, "\"");
    return out + "]";
  };
  EXPECT_TRUE(Allows(*grammar, list(300, "éé")));
  EXPECT_FALSE(Allows(*grammar, list(299, "éé")));
  EXPECT_FALSE(Allows(*grammar, list(300, "é")));
  EXPECT_TRUE(Allows(*CompileSchema(R"({"maxLength":50000})"), "\"" + std::string(50000, 'x') + "\""));
  EXPECT_FALSE(Allows(*CompileSchema(R"({"maxLength":50000})"), "\"" + std::string(50001, 'x') + "\""));
}

TEST(Schema, NumbersAreHeldToTheirBoundsDigitByDigit) {
  ExpectAllows(R"({"type":"integer","minimum":-12,"maximum":305,"multipleOf":5})", {"-10", "0", "5", "305", "100"},
               {"-15", "310", "3", "1000", "-0", "00"});
  ExpectAllows(R"({"exclusiveMinimum":-0.05,"maximum":12.34})", {"-0.04", "-0.049999", "0", "12.34", "9.99", "12.3"},
               {"-0.05", "-0.1", "12.341", "12.35", "13", "100", "1e1", "12.30"});
  ExpectAllows(R"({"multipleOf":0.25})", {"1", "0.25", "-1.5", "100.75"}, {"0.3", "0.125", "0.50"});
  ExpectAllows(R"({"enum":[1,2.50,1e3,-0.0]})", {"1", "2.5", "1000", "0"}, {"2.50", "1e3", "3", "-0"});
}

TEST(Schema, MayReferToItself) {
  const std::string tree = R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{
      "value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},
      "required":["value","children"],"additionalProperties":false}}})";
  ExpectAllows(tree, {R"({"value": 1, "children": [{"value": 2, "children": []}]})"}, {R"({"value": 1})"});
  EXPECT_THAT(Refusal(R"({"$ref":"#"})"), HasSubstr("refers to itself"));
  EXPECT_THAT(Refusal(R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})"),
              HasSubstr("no value that can be written"));
  // Nests as deep as frames allow, and ends there without being cut off.
  Constraint constraint(CompileSchema(R"({"type":"array","items":{"$ref":"#"},"minItems":0})"), ByteVocabulary());
  Position position = constraint.grammar().start();
  size_t depth = 0;
  while (((*constraint.TokensAt(position))['[' / 64] >> ('[' % 64) & 1) != 0) {
    position = constraint.grammar().program().Next(position, '[');
    ++depth;
  }
  EXPECT_GT(depth, 40u);
  EXPECT_TRUE(constraint.grammar().program().Next(position, std::string(depth, ']')).may_end());
}

TEST(Schema, OneOfIsExactWhetherBranchesOverlapOrNot) {
  ExpectAllows(R"({"oneOf":[{"type":"integer"},{"minimum":2}]})", {"1", "2.5", "null", "\"x\""}, {"3", "1.5"});
  ExpectAllows(R"({"oneOf":[{"properties":{"k":{"const":"a"},"x":{"type":"integer"}},"required":["k"]},
                            {"properties":{"k":{"const":"b"}},"required":["k"]}],"type":"object"})",
               {R"({"k": "a", "x": 1})", R"({"k": "b", "x": "y"})"}, {R"({"k": "c"})", R"({"k": "a", "x": "y"})"});
  EXPECT_THAT(Refusal(R"({"oneOf":[{"type":"array","items":{"type":"integer"}},{"type":"array"}]})"),
              HasSubstr("\"oneOf\" (at /oneOf) has branches 1 and 0"));
}

TEST(Schema, WhatIsNotSupportedIsRefusedByNameAndPlace) {
  for (const auto& [schema, says] : std::initializer_list<std::array<std::string, 2>>{
           {R"({"properties":{"a/b":{"uniqueItems":true}}})", "\"uniqueItems\" (at /properties/a~1b/uniqueItems)"},
           {R"({"contains":{}})", "\"contains\" (at /contains)"},
           {R"({"items":{"unevaluatedProperties":false}})", "\"unevaluatedProperties\" (at /items/"},
           {R"({"$dynamicRef":"#a"})", "\"$dynamicRef\""},
           {R"({"minLenght":1})", "\"minLenght\" (at /minLenght) is a keyword that is not supported"},
           {R"({"format":"iri"})", "\"format\" (at /format) can be date,"},
           {R"({"$ref":"http://x/y"})", "\"$ref\" (at /$ref) may only refer to this schema itself"},
           {R"({"$ref":"#/$defs/nope"})", "refers to what is not there"},
           {R"({"$schema":"https://example.com/mine"})", "\"$schema\" (at /$schema)"},
           {R"({"items":[{}]})", "prefixItems"},
           {R"({"type":"strin"})", "\"type\" (at /type) must be"},
           {R"({"minItems":-1})", "\"minItems\" (at /minItems) must be a whole number"},
           {R"({"multipleOf":0})", "more than 0"},
           {R"-({"pattern":"a(?!b)"})-", "\"pattern\" (at /pattern) looks around"},
           {R"({"not":{"items":{"type":"null"}}})", "\"items\" (at /not/items) cannot be enforced"},
           {R"({"minProperties":3})", "\"minProperties\" of 3"},
           {R"({"properties":{"a":7}})", "must be a schema"},
           {R"([])", "must be a schema"},
           {R"({"a":)", "no usable JSON"},
           {"{" + std::string(70000, ' ') + "}", "at most 65536"},
           {R"({"type":["string","null"],"enum":[]})", "no value that can be written"}}) {
    const std::string refusal = Refusal(schema);
    EXPECT_THAT(refusal, HasSubstr(says)) << schema.substr(0, 60);
    EXPECT_TRUE(refusal.starts_with("answer_schema: ")) << refusal;
  }
  EXPECT_EQ(Refusal(R"({"x-order":[1],"title":"t","description":"d","default":1,"examples":[],"$comment":"c",
                        "$schema":"http://json-schema.org/draft-07/schema#","deprecated":true})"),
            "");
}

// A refusal from deep inside: of a member's schema, asked for to see whether branches overlap.
TEST(Schema, WhatIsRefusedBelowOneOfIsRefused) {
  EXPECT_THAT(Refusal(R"({"oneOf":[{"required":["a"],"properties":{"a":{"uniqueItems":true}}},{"type":"object"}]})"),
              HasSubstr("\"uniqueItems\""));
}

// SEC-23: schemas that are made to cost much are refused, in bounded work.
TEST(Schema, WhatCostsTooMuchIsRefused) {
  std::string deep = "{}";
  for (int i = 0; i < 40; ++i) deep = R"({"not":)" + deep + "}";
  EXPECT_THAT(Refusal(deep), HasSubstr("no usable JSON"));
  std::string wide = R"({"anyOf":[)";
  for (int i = 0; i < 200; ++i) absl::StrAppend(&wide, i > 0 ? "," : "", R"({"required":["p)", i, "\"]}");
  EXPECT_THAT(Refusal(wide + "]}"), HasSubstr("alternatives"));
  std::string product = R"({"allOf":[)";
  for (int i = 0; i < 12; ++i) {
    absl::StrAppend(&product, i > 0 ? "," : "", R"({"anyOf":[{"required":["a)", i, R"("]},{"required":["b)", i,
                    R"("]}]})");
  }
  EXPECT_THAT(Refusal(product + "]}"), HasSubstr("alternatives"));
  std::string chain = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 900; ++i) absl::StrAppend(&chain, "\"d", i, R"(":{"$ref":"#/$defs/d)", i + 1, "\"},");
  EXPECT_THAT(Refusal(chain + R"("d900":{}}})"), HasSubstr("more than 192 other schemas"));
  std::string patterns = R"({"patternProperties":{)";
  for (int i = 0; i < 10; ++i) absl::StrAppend(&patterns, i > 0 ? "," : "", "\"", std::string(1, 'a' + i), "\":{}");
  EXPECT_THAT(Refusal(patterns + "}}"), HasSubstr("patterns that overlap"));
  EXPECT_THAT(Refusal(R"-({"pattern":"^(a|b)*c(a|b){11}$","minLength":2000})-"), HasSubstr("states"));
}

}  // namespace
}  // namespace longshelf::grammar::testing
