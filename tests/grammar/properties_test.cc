// Random schemas against a checker without automata.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "plain_check.h"
#include "random_schema.h"
#include "texts.h"

namespace longshelf::grammar::testing {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// As it is written in an answer.
std::string Written(const ordered_json& value) {
  if (value.is_object() || value.is_array()) {
    std::string out;
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (!out.empty()) out += ", ";
      if (value.is_object()) out += ordered_json(it.key()).dump() + ": ";
      out += Written(*it);
    }
    return value.is_object() ? "{" + out + "}" : "[" + out + "]";
  }
  if (value.is_number_float()) {
    const auto whole = static_cast<int64_t>(value.get<double>());
    if (static_cast<double>(whole) == value.get<double>()) return std::to_string(whole);
  }
  return value.dump();
}

// Numbers that a double, which the plain checker has, does not hold exactly.
bool HasLongNumber(const std::string& text) {
  size_t n_digits = 0;
  for (const char c : text) {
    n_digits = (c >= '0' && c <= '9') || c == '.' ? n_digits + 1 : 0;
    if (n_digits > 15) return true;
  }
  return false;
}

// One value somewhere in it is another one.
void Change(ordered_json& value, std::mt19937_64& random) {
  if ((value.is_object() || value.is_array()) && !value.empty() && random() % 4 > 0) {
    auto it = value.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(random() % value.size()));
    if (random() % 5 == 0) {
      value.erase(it);
    } else {
      Change(*it, random);
    }
    return;
  }
  const ordered_json others[] = {nullptr, true, 0, 1, -2, 2.5, "", "ab", "xxxxxx", ordered_json::array(), {{"a", 1}}};
  value = others[random() % std::size(others)];
}

TEST(Properties, WhatAGrammarAllowsIsValidAndItNeverComesToADeadEnd) {
  const auto vocabulary = ByteVocabulary();
  size_t n_texts = 0;
  size_t n_changed_valid = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    std::mt19937_64 random(seed);
    const ordered_json schema = RandomSchema(random);
    const auto grammar = CompileSchema(schema.dump());
    if (grammar == nullptr) continue;
    const json plain = json::parse(schema.dump());
    const PlainChecker checker(plain);
    Constraint constraint(grammar, vocabulary);
    for (int i = 0; i < 4; ++i) {
      std::string text;
      ASSERT_TRUE(RandomText(constraint, random, 40, text))
          << "seed " << seed << ": a dead end behind " << text << " of " << schema.dump();
      ASSERT_TRUE(json::accept(text)) << "seed " << seed << ": " << text << " of " << schema.dump();
      ASSERT_TRUE(HasLongNumber(text) || checker.IsValid(json::parse(text)))
          << "seed " << seed << ": " << text << " of " << schema.dump();
      if (HasLongNumber(text)) continue;
      ++n_texts;
      // The other way round: what is near it and valid is allowed, and what is not valid is not.
      ordered_json changed = ordered_json::parse(text);
      if (changed.is_object() && text.find("\": ") != std::string::npos && Written(changed) != text) continue;
      Change(changed, random);
      const bool is_valid = checker.IsValid(json::parse(changed.dump()));
      const bool is_allowed = Allows(*grammar, Written(changed));
      n_changed_valid += is_valid ? 1 : 0;
      ASSERT_EQ(is_allowed, is_valid) << "seed " << seed << ": " << Written(changed) << " of " << schema.dump();
    }
  }
  EXPECT_GT(n_texts, 2000u);
  EXPECT_GT(n_changed_valid, 200u);
}

}  // namespace
}  // namespace longshelf::grammar::testing
