#pragma once

#include <nlohmann/json.hpp>

namespace longshelf::grammar::testing {

// A JSON schema checker without any automaton: what it says of an instance is what a compiled grammar is held against.
// Knows the keywords that random_schema.h writes, and nothing else.
class PlainChecker {
 public:
  explicit PlainChecker(const nlohmann::json& root) : root_(root) {}
  bool IsValid(const nlohmann::json& instance) const { return IsValid(root_, instance); }

 private:
  bool IsValid(const nlohmann::json& schema, const nlohmann::json& instance) const;
  bool IsValidNumber(const nlohmann::json& schema, const nlohmann::json& instance) const;
  bool IsValidString(const nlohmann::json& schema, const std::string& value) const;
  bool IsValidArray(const nlohmann::json& schema, const nlohmann::json& instance) const;
  bool IsValidObject(const nlohmann::json& schema, const nlohmann::json& instance) const;
  bool IsValidCombination(const nlohmann::json& schema, const nlohmann::json& instance) const;

  const nlohmann::json& root_;
};

// Whether `value` matches one of the few patterns that random schemas have.
bool MatchesPattern(const std::string& pattern, const std::string& value);

}  // namespace longshelf::grammar::testing
