// JSON schemas, tools and specifications as clients and routers send them. What is refused is refused with a reason in
// UTF-8; what compiles never leads to where nothing may follow, writes JSON only, and of schemas that a plain checker
// knows only what that one finds valid.
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "plain_check.h"
#include "random_schema.h"
#include "texts.h"

namespace longshelf::grammar::testing {
namespace {

using nlohmann::json;

bool HasLongNumber(std::string_view text) {
  size_t n_digits = 0;
  for (const char c : text) {
    n_digits = (c >= '0' && c <= '9') || c == '.' ? n_digits + 1 : 0;
    if (n_digits > 15) return true;
  }
  return false;
}

// Returns a text that it allows; "" when it is refused, or none is found soon.
std::string Follow(const OutputSpec& spec, uint64_t seed) {
  const auto grammar = Grammar::Compile(spec);
  if (!grammar.ok()) {
    LONGSHELF_CHECK(!grammar.status().message().empty());
    return "";
  }
  static const std::shared_ptr<const Vocabulary> vocabulary = ByteVocabulary();
  Constraint constraint(*grammar, vocabulary);
  std::mt19937_64 random(seed);
  Position position = (*grammar)->start();
  std::string text;
  for (int i = 0; i < 60; ++i) {
    const auto bits = constraint.TokensAt(position);
    std::vector<Symbol> symbols;
    for (Symbol symbol = 0; symbol < kSymbols; ++symbol) {
      if (((*bits)[symbol / 64] >> (symbol % 64) & 1) != 0) symbols.push_back(symbol);
    }
    LONGSHELF_CHECK(position.may_end() || !symbols.empty());
    if (position.may_end()) return text;
    const Symbol next = symbols[random() % symbols.size()];
    position = (*grammar)->program().Next(position, next);
    LONGSHELF_CHECK(!position.is_dead());
    text += next < 256 ? static_cast<char>(next) : '?';
  }
  return "";
}

void CheckSchema(std::string_view schema, uint64_t seed) {
  OutputSpec spec;
  spec.answer_schema = schema;
  const std::string text = Follow(spec, seed);
  LONGSHELF_CHECK(text.empty() || json::accept(text));
}

// A schema made of the input's choices.
void CheckAgainstPlain(uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::string schema = RandomSchema(random).dump();
  OutputSpec spec;
  spec.answer_schema = schema;
  const std::string text = Follow(spec, seed);
  if (text.empty() || HasLongNumber(text)) return;
  const json plain = json::parse(schema);
  LONGSHELF_CHECK(PlainChecker(plain).IsValid(json::parse(text)));
}

void CheckTool(std::string_view name, std::string_view parameters, uint64_t seed) {
  OutputSpec spec;
  spec.calls = seed % 2 == 0 ? OutputSpec::Calls::kRequired : OutputSpec::Calls::kAllowed;
  spec.after_thinking = seed % 3 == 0;
  spec.tools = {{std::string(name), std::string(parameters)}};
  Follow(spec, seed);
}

void CheckSpec(std::string_view bytes) {
  const auto spec = OutputSpec::Parse(bytes);
  if (!spec.ok()) return;
  LONGSHELF_CHECK(spec->Serialize() == bytes);
  Follow(*spec, bytes.size());
}

}  // namespace
}  // namespace longshelf::grammar::testing

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  grammar::OutputSpec spec;
  spec.answer_schema = R"({"type":"integer"})";
  spec.calls = grammar::OutputSpec::Calls::kAllowed;
  spec.tools = {{"f", "{}"}};
  const std::string head(5, '\1');
  return {
      .inputs = {'\0' + head + R"({"type":"object","properties":{"a":{"type":["string","null"],"maxLength":5},
                                      "b":{"$ref":"#/$defs/d"}},"required":["b"],"additionalProperties":false,
                                      "$defs":{"d":{"type":"array","items":{"enum":[1,"x",null]},"minItems":1}}})",
                 '\0' + head + R"({"anyOf":[{"type":"string","pattern":"^[a-f]{2,9}$"},{"type":"number","minimum":-1.5,
                                      "multipleOf":0.25},{"if":{"required":["a"]},"then":{"maxProperties":2}}]})",
                 '\0' + head + R"({"oneOf":[{"type":"integer"},{"minimum":2}],"not":{"const":7}})", '\1' + head,
                 '\2' + head + R"({"properties":{"city":{"format":"date"}},"required":["city"]})",
                 '\3' + head + spec.Serialize()},
      .words = {"\"allOf\":[",
                "\"anyOf\":[",
                "\"oneOf\":[",
                "\"not\":",
                "\"$ref\":\"#\"",
                "\"enum\":[",
                "\"const\":",
                "\"patternProperties\":{",
                "\"propertyNames\":",
                "\"minProperties\":3",
                "\"minItems\":2",
                "\"maxItems\":1",
                "\"prefixItems\":[",
                "\"items\":false",
                "\"format\":\"ipv6\"",
                "\"pattern\":\"",
                "(a|b)*",
                "{1,40}",
                "[^\\\\d]",
                "\"maxLength\":100000",
                "1e400",
                "-0",
                "\"uniqueItems\":true",
                "\"if\":",
                "\"then\":",
                "true",
                "false",
                "{}",
                "\"multipleOf\":0.1",
                "\"dependentSchemas\":{"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  const uint8_t kind = input.Byte() % 4;
  uint64_t seed = 0;
  for (int i = 0; i < 5; ++i) seed = seed << 8 | input.Byte();
  switch (kind) {
    case 0:
      grammar::testing::CheckSchema(input.Rest(), seed);
      break;
    case 1:
      grammar::testing::CheckAgainstPlain(seed);
      break;
    case 2:
      grammar::testing::CheckTool("f", input.Rest(), seed);
      break;
    default:
      grammar::testing::CheckSpec(input.Rest());
  }
  return 0;
}
