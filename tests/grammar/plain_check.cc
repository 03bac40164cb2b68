#include "plain_check.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "common/check.h"

namespace longshelf::grammar::testing {
namespace {

using nlohmann::json;

bool IsOfType(const std::string& type, const json& instance) {
  if (type == "null") return instance.is_null();
  if (type == "boolean") return instance.is_boolean();
  if (type == "string") return instance.is_string();
  if (type == "array") return instance.is_array();
  if (type == "object") return instance.is_object();
  if (!instance.is_number()) return false;
  return type == "number" || std::floor(instance.get<double>()) == instance.get<double>();
}

size_t Length(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

bool MatchesPattern(const std::string& pattern, const std::string& value) {
  const auto is_lower = [](char c) { return c >= 'a' && c <= 'z'; };
  if (pattern == "^a") return value.starts_with('a');
  if (pattern == "b$") return value.ends_with('b');
  if (pattern == "x") return value.find('x') != std::string::npos;
  LONGSHELF_CHECK(pattern == "^[a-z]{2,4}$");
  return value.size() >= 2 && value.size() <= 4 && std::all_of(value.begin(), value.end(), is_lower);
}

bool PlainChecker::IsValidNumber(const json& schema, const json& instance) const {
  const auto value = instance.get<double>();
  if (schema.contains("minimum") && value < schema["minimum"].get<double>()) return false;
  if (schema.contains("maximum") && value > schema["maximum"].get<double>()) return false;
  if (schema.contains("exclusiveMinimum") && value <= schema["exclusiveMinimum"].get<double>()) return false;
  if (schema.contains("exclusiveMaximum") && value >= schema["exclusiveMaximum"].get<double>()) return false;
  if (!schema.contains("multipleOf")) return true;
  const auto divisor = schema["multipleOf"].get<double>();
  // Where a double has too few digits.
  if (instance.is_number_integer() && divisor >= 1) return instance.get<int64_t>() % static_cast<int64_t>(divisor) == 0;
  return std::fmod(value, divisor) == 0.0;
}

bool PlainChecker::IsValidString(const json& schema, const std::string& value) const {
  if (schema.contains("minLength") && Length(value) < schema["minLength"].get<size_t>()) return false;
  if (schema.contains("maxLength") && Length(value) > schema["maxLength"].get<size_t>()) return false;
  return !schema.contains("pattern") || MatchesPattern(schema["pattern"], value);
}

bool PlainChecker::IsValidArray(const json& schema, const json& instance) const {
  if (schema.contains("minItems") && instance.size() < schema["minItems"].get<size_t>()) return false;
  if (schema.contains("maxItems") && instance.size() > schema["maxItems"].get<size_t>()) return false;
  const size_t n_prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
  for (size_t i = 0; i < instance.size(); ++i) {
    if (i < n_prefix && !IsValid(schema["prefixItems"][i], instance[i])) return false;
    if (i >= n_prefix && schema.contains("items") && !IsValid(schema["items"], instance[i])) return false;
  }
  return true;
}

bool PlainChecker::IsValidObject(const json& schema, const json& instance) const {
  if (schema.contains("minProperties") && instance.size() < schema["minProperties"].get<size_t>()) return false;
  if (schema.contains("maxProperties") && instance.size() > schema["maxProperties"].get<size_t>()) return false;
  if (schema.contains("required")) {
    for (const json& name : schema["required"]) {
      if (!instance.contains(name)) return false;
    }
  }
  for (const auto& [name, value] : instance.items()) {
    bool is_known = false;
    if (schema.contains("properties") && schema["properties"].contains(name)) {
      is_known = true;
      if (!IsValid(schema["properties"][name], value)) return false;
    }
    if (schema.contains("patternProperties")) {
      for (const auto& [pattern, own] : schema["patternProperties"].items()) {
        if (!MatchesPattern(pattern, name)) continue;
        is_known = true;
        if (!IsValid(own, value)) return false;
      }
    }
    if (!is_known && schema.contains("additionalProperties") && !IsValid(schema["additionalProperties"], value)) {
      return false;
    }
    if (schema.contains("propertyNames") && !IsValid(schema["propertyNames"], json(name))) return false;
  }
  return true;
}

bool PlainChecker::IsValidCombination(const json& schema, const json& instance) const {
  const auto holds = [&](const json& each) { return IsValid(each, instance); };
  if (schema.contains("$ref")) {
    const std::string ref = schema["$ref"];
    if (!IsValid(root_.at(json::json_pointer(ref.substr(1))), instance)) return false;
  }
  const auto count = [&](const char* name) { return std::count_if(schema[name].begin(), schema[name].end(), holds); };
  if (schema.contains("allOf") && count("allOf") != static_cast<std::ptrdiff_t>(schema["allOf"].size())) return false;
  if (schema.contains("anyOf") && count("anyOf") == 0) return false;
  if (schema.contains("oneOf") && count("oneOf") != 1) return false;
  if (schema.contains("not") && holds(schema["not"])) return false;
  if (!schema.contains("if")) return true;
  const char* branch = holds(schema["if"]) ? "then" : "else";
  return !schema.contains(branch) || holds(schema[branch]);
}

bool PlainChecker::IsValid(const json& schema, const json& instance) const {
  if (schema.is_boolean()) return schema.get<bool>();
  if (schema.contains("type")) {
    const json types = schema["type"].is_array() ? schema["type"] : json::array({schema["type"]});
    if (std::none_of(types.begin(), types.end(), [&](const json& type) { return IsOfType(type, instance); })) {
      return false;
    }
  }
  if (schema.contains("const") && schema["const"] != instance) return false;
  if (schema.contains("enum") &&
      std::find(schema["enum"].begin(), schema["enum"].end(), instance) == schema["enum"].end()) {
    return false;
  }
  if (instance.is_number() && !IsValidNumber(schema, instance)) return false;
  if (instance.is_string() && !IsValidString(schema, instance.get<std::string>())) return false;
  if (instance.is_array() && !IsValidArray(schema, instance)) return false;
  if (instance.is_object() && !IsValidObject(schema, instance)) return false;
  return IsValidCombination(schema, instance);
}

}  // namespace longshelf::grammar::testing
