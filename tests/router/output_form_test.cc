#include "output_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "grammar/grammar.h"

namespace longshelf::router {
namespace {

using grammar::OutputSpec;
using ::testing::HasSubstr;

constexpr char kTools[] =
    R"("tools":[{"type":"function","function":{"name":"free","parameters":{"type":"object"}}},
        {"type":"function","function":{"name":"held","strict":true,"parameters":{"type":"object",
         "properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}}}])";
constexpr char kSchema[] =
    R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object",
        "properties":{"b":{"type":"boolean"}}}}})";

ApiRequest Parsed(const std::string& fields, const std::string& last = "") {
  const std::string body =
      absl::StrCat(R"({"messages":[{"role":"user","content":"hi"})", last, "]", fields.empty() ? "" : ",", fields, "}");
  auto request = ParseRequestBody(Api::kChat, body, {.sizes = kSizeLimits, .vocab_size = 4224});
  if (const auto* error = std::get_if<ApiError>(&request)) ADD_FAILURE() << error->message;
  return std::get<ApiRequest>(std::move(request));
}

std::optional<ApiError> Check(const ApiRequest& request) {
  const auto form = OutputFormOf(request);
  EXPECT_TRUE(form.has_value());
  return CheckOutputForm(request, *form, nullptr);
}

TEST(OutputForm, IsNoneWhereNothingIsAskedFor) {
  for (const char* fields : {"", R"("tools":[{"type":"function","function":{"name":"free"}}])",
                             R"("response_format":{"type":"text"})", R"("response_format":null)"}) {
    EXPECT_FALSE(OutputFormOf(Parsed(fields)).has_value()) << fields;
  }
  EXPECT_FALSE(OutputFormOf(Parsed(absl::StrCat(kTools, R"(,"tool_choice":"none")"))).has_value());
}

TEST(OutputForm, OfAnAnswerIsItsSchemaBehindTheThinking) {
  const auto form = OutputFormOf(Parsed(kSchema));
  ASSERT_TRUE(form.has_value());
  EXPECT_EQ(form->answer_schema, R"({"type":"object","properties":{"b":{"type":"boolean"}}})");
  EXPECT_TRUE(form->after_thinking);
  EXPECT_EQ(form->calls, OutputSpec::Calls::kNone);
  const auto object = OutputFormOf(Parsed(R"("response_format":{"type":"json_object"},"reasoning_effort":"none")"));
  ASSERT_TRUE(object.has_value());
  EXPECT_EQ(object->answer_schema, R"({"type": "object"})");
  EXPECT_FALSE(object->after_thinking);
}

TEST(OutputForm, OfStrictToolsHoldsTheirCallsAndLeavesTheText) {
  const auto form = OutputFormOf(Parsed(kTools));
  ASSERT_TRUE(form.has_value());
  EXPECT_EQ(form->calls, OutputSpec::Calls::kAllowed);
  EXPECT_EQ(form->answer_schema, "");
  ASSERT_EQ(form->tools.size(), 2u);
  EXPECT_EQ(form->tools[0], (OutputSpec::Tool{"free", ""}));
  EXPECT_EQ(form->tools[1].name, "held");
  EXPECT_THAT(form->tools[1].parameters, HasSubstr(R"("required":["a"])"));
  EXPECT_EQ(form->n_calls_max, grammar::kCallsMax);
  const auto one = OutputFormOf(Parsed(absl::StrCat(kTools, R"(,"parallel_tool_calls":false)")));
  EXPECT_EQ(one->n_calls_max, 1u);
  const auto both = OutputFormOf(Parsed(absl::StrCat(kTools, ",", kSchema)));
  EXPECT_NE(both->answer_schema, "");
  EXPECT_EQ(both->calls, OutputSpec::Calls::kAllowed);
}

TEST(OutputForm, OfADemandedCallIsThatCall) {
  const auto any = OutputFormOf(Parsed(absl::StrCat(kTools, ",", kSchema, R"(,"tool_choice":"required")")));
  EXPECT_EQ(any->calls, OutputSpec::Calls::kRequired);
  EXPECT_EQ(any->answer_schema, "") << "there is no answer but calls";
  EXPECT_EQ(any->tools.size(), 2u);
  const auto named =
      OutputFormOf(Parsed(absl::StrCat(kTools, R"(,"tool_choice":{"type":"function","function":{"name":"held"}})")));
  ASSERT_EQ(named->tools.size(), 1u);
  EXPECT_EQ(named->tools[0].name, "held");
  EXPECT_EQ(named->n_calls_max, 1u);
}

TEST(OutputForm, OfAPrefixGoesOnFromIt) {
  const std::string schema = kSchema;
  const auto request = Parsed(schema, R"(,{"role":"assistant","prefix":true,"content":"{\"b\": t"})");
  const auto form = OutputFormOf(request);
  EXPECT_EQ(form->given, "{\"b\": t");
  EXPECT_FALSE(form->after_thinking);
  EXPECT_FALSE(Check(request).has_value());
  const auto error = Check(Parsed(schema, R"(,{"role":"assistant","prefix":true,"content":"```json"})"));
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->param, "messages");
}

TEST(OutputForm, ErrorsNameTheFieldAndTheKeyword) {
  const auto tool = [](const std::string& function) {
    return R"("tools":[{"type":"function","function":{"name":"free"}},{"type":"function","function":)" + function +
           "}]";
  };
  for (
      const auto& [fields, param, says] : std::initializer_list<std::array<std::string, 3>>{
          {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"anyOf":[{"$dynamicRef":"#"}]}}})",
           "response_format.json_schema.schema", "\"$dynamicRef\" (at /anyOf/0/$dynamicRef)"},
          {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"minimum":"1"}}})",
           "response_format.json_schema.schema", "\"minimum\" (at /minimum) must be a number"},
          {tool(R"-({"name":"g","strict":true,"parameters":{"properties":{"x":{"pattern":"(?=a)"}}}})-"),
           "tools[1].function.parameters", "\"pattern\" (at /properties/x/pattern)"},
          {tool(R"({"name":"g","strict":true,"parameters":{"properties":{"x\"y":{}}}})"),
           "tools[1].function.parameters", "name of a parameter"},
          {tool(R"({"name":"a<b","strict":true})"), "tools[1].function.name", "quotes"}}) {
    const auto error = Check(Parsed(fields));
    ASSERT_TRUE(error.has_value()) << fields;
    EXPECT_EQ(error->http_status, 400);
    EXPECT_EQ(error->param, param) << error->message;
    EXPECT_THAT(error->message, HasSubstr(says));
  }
}

TEST(OutputForm, StrictnessIsAFlagAndSchemasAreObjects) {
  for (const auto& [fields, param] : std::initializer_list<std::array<std::string, 2>>{
           {R"("tools":[{"type":"function","function":{"name":"f","strict":"yes"}}])", "tools[0].function.strict"},
           {R"("response_format":{"type":"json_schema"})", "response_format.json_schema"},
           {R"("response_format":{"type":"json_schema","json_schema":{"schema":{}}})",
            "response_format.json_schema.name"},
           {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":true}})",
            "response_format.json_schema.schema"},
           {R"("response_format":{"type":"grammar"})", "response_format.type"}}) {
    const auto parsed = ParseRequestBody(Api::kChat, R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}",
                                         {.sizes = kSizeLimits, .vocab_size = 4224});
    const auto* error = std::get_if<ApiError>(&parsed);
    ASSERT_NE(error, nullptr) << fields;
    EXPECT_EQ(error->param, param);
  }
}

TEST(OutputForm, OfThoseThatWereCheckedTheOldestAreForgotten) {
  CheckedForms forms;
  for (size_t i = 0; i < 300; ++i) forms.Add(i);
  EXPECT_TRUE(forms.Has(299));
  EXPECT_FALSE(forms.Has(0));
}

}  // namespace
}  // namespace longshelf::router
