#include "grammar/constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "random_schema.h"
#include "testing/fixtures.h"
#include "texts.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::grammar::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kEos = 1;

std::shared_ptr<const Vocabulary> DemoVocabulary() {
  static const auto vocabulary = Vocabulary::Make(**tokenizer::Tokenizer::Load(longshelf::testing::ModelPath("demo")));
  return vocabulary;
}

OutputSpec Spec(const std::string& schema) {
  OutputSpec spec;
  spec.answer_schema = schema;
  return spec;
}

bool Has(const TokenBits& bits, uint32_t token) {
  return token / 64 < bits.size() && (bits[token / 64] >> (token % 64) & 1) != 0;
}

// What a mask says of each token is what reading its text says, wherever a random output is.
void ExpectMasksAreExact(const OutputSpec& spec, uint64_t seed) {
  const auto grammar = Grammar::Compile(spec);
  if (!grammar.ok()) return;
  const auto vocabulary = DemoVocabulary();
  const auto constraint = std::make_shared<Constraint>(*grammar, vocabulary);
  OutputState state(constraint, {kEos});
  std::mt19937_64 random(seed);
  for (int step = 0; step < 12; ++step) {
    const auto allowed = state.Allowed();
    ASSERT_TRUE(allowed.ok()) << allowed.status() << " seed " << seed;
    std::vector<uint32_t> tokens;
    for (uint32_t token = 0; token < vocabulary->size(); ++token) {
      Position next = state.position();
      for (const uint16_t symbol : vocabulary->SymbolsOf(token)) next = (*grammar)->program().Next(next, symbol);
      const bool follows =
          token == kEos ? state.position().may_end() : !vocabulary->SymbolsOf(token).empty() && !next.is_dead();
      ASSERT_EQ(Has(*allowed, token), follows) << "seed " << seed << ", step " << step << ", token " << token;
      if (follows && token != kEos) tokens.push_back(token);
    }
    if (tokens.empty()) return;
    ASSERT_TRUE(state.Push(tokens[random() % tokens.size()]).ok());
  }
}

TEST(Constraint, MasksAreWhatReadingEveryTokenSays) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    std::mt19937_64 random(seed);
    ExpectMasksAreExact(Spec(RandomSchema(random).dump()), seed);
  }
  OutputSpec calls;
  calls.calls = OutputSpec::Calls::kAllowed;
  calls.after_thinking = true;
  calls.tools = {{"get_weather", R"({"type":"object","properties":{"city":{"maxLength":300}},"required":["city"]})"}};
  ExpectMasksAreExact(calls, 1);
  calls.calls = OutputSpec::Calls::kRequired;
  calls.after_thinking = false;
  ExpectMasksAreExact(calls, 2);
}

TEST(Constraint, MasksDoNotDependOnWhatWasAskedBefore) {
  // Long lengths, so that there are many positions, and all is forgotten now and then.
  const auto grammar = CompileSchema(R"({"type":"string","pattern":"^([a-z]{3,9} )*$"})");
  const auto used = std::make_shared<Constraint>(grammar, DemoVocabulary());
  std::mt19937_64 random(7);
  OutputState state(used, {kEos});
  for (int step = 0; step < 300; ++step) {
    const TokenBits bits = *state.Allowed();
    if (step % 30 == 0) {
      Constraint fresh(grammar, DemoVocabulary());
      EXPECT_EQ(*fresh.TokensAt(state.position()), *used->TokensAt(state.position()));
    }
    std::vector<uint32_t> tokens;
    for (uint32_t token = 2; token < DemoVocabulary()->size(); ++token) {
      if (Has(bits, token)) tokens.push_back(token);
    }
    ASSERT_FALSE(tokens.empty());
    ASSERT_TRUE(state.Push(tokens[random() % tokens.size()]).ok());
    if (state.position().may_end()) return;
  }
}

TEST(OutputState, IsTheSameFromAnyCutOfItsTokens) {
  const auto tokenizer = *tokenizer::Tokenizer::Load(longshelf::testing::ModelPath("demo"));
  const auto constraint = std::make_shared<Constraint>(
      CompileSchema(R"({"type":"object","properties":{"name":{"type":"string","minLength":3,"maxLength":40},
                       "tags":{"type":"array","items":{"type":"string"},"maxItems":9}},"required":["name"]})"),
      DemoVocabulary());
  const std::vector<uint32_t> tokens =
      *tokenizer->Encode(R"({"name": "Jörg ☕ 😀", "tags": ["a", "b c", "\\"], "x": 1})");
  OutputState whole(constraint, {kEos});
  for (size_t cut = 0; cut <= tokens.size(); ++cut) {
    OutputState again(constraint, {kEos});
    for (size_t i = 0; i < cut; ++i) ASSERT_TRUE(again.Push(tokens[i]).ok());
    EXPECT_EQ(again.position(), whole.position());
    EXPECT_EQ(*again.Allowed(), *whole.Allowed());
    if (cut == tokens.size()) break;
    ASSERT_TRUE(whole.Push(tokens[cut]).ok()) << cut;
  }
  EXPECT_TRUE(whole.position().may_end());
  EXPECT_TRUE(whole.Push(kEos).ok());
}

TEST(OutputState, RefusesATokenThatDoesNotFollowAndStaysWhereItWas) {
  const auto constraint = std::make_shared<Constraint>(CompileSchema(R"({"const":"ab"})"), ByteVocabulary());
  OutputState state(constraint, {kEos});
  ASSERT_TRUE(state.Push('"').ok());
  const Position before = state.position();
  EXPECT_EQ(state.Push('x').code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(state.Push(kEos).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(state.Push(100000).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(state.position(), before);
}

TEST(OutputState, AVocabularyThatCannotGoOnIsAClearFailure) {
  const std::vector<Vocabulary::Token> tokens = {{"\"a", false}, {"b", false}, {"", false}};
  const auto constraint =
      std::make_shared<Constraint>(CompileSchema(R"({"const":"ac"})"), std::make_shared<const Vocabulary>(tokens));
  OutputState state(constraint, {2});
  EXPECT_TRUE(Has(*state.Allowed(), 0));
  ASSERT_TRUE(state.Push(0).ok());
  EXPECT_THAT(std::string(state.Allowed().status().message()), HasSubstr("no token of this model's vocabulary"));
}

TEST(ConstraintCache, MakesEachConstraintOnceAndKeepsTheLastFew) {
  ConstraintCache cache(ByteVocabulary());
  const auto spec = [](int i) { return Spec(R"({"const":)" + std::to_string(i) + "}").Serialize(); };
  const auto first = *cache.Get(spec(0));
  EXPECT_EQ(*cache.Get(spec(0)), first);
  for (int i = 1; i <= static_cast<int>(ConstraintCache::kKept); ++i) ASSERT_TRUE(cache.Get(spec(i)).ok());
  EXPECT_NE(*cache.Get(spec(0)), first);
  EXPECT_EQ(cache.Get("rubbish").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(OutputSpec, IsReadAsItWasWritten) {
  OutputSpec spec;
  spec.after_thinking = true;
  spec.answer_schema = "{}";
  spec.calls = OutputSpec::Calls::kAllowed;
  spec.n_calls_max = 3;
  spec.tools = {{"f", ""}, {"g", "{\"a\":1}"}};
  spec.given = "{\"";
  const std::string bytes = spec.Serialize();
  EXPECT_EQ(*OutputSpec::Parse(bytes), spec);
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(OutputSpec::Parse(bytes.substr(0, n)).ok());
  EXPECT_FALSE(OutputSpec::Parse(bytes + "x").ok());
}

}  // namespace
}  // namespace longshelf::grammar::testing
