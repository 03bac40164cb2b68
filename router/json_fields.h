#pragma once

#include <simdjson.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "router/api_error.h"
#include "router/limits.h"

// Reading one JSON object field by field. simdjson is included here and in the .cc files that parse, nowhere else.
namespace longshelf::router {

using JsonValue = simdjson::dom::element;
using JsonObject = simdjson::dom::object;
using JsonArray = simdjson::dom::array;

// Numbers of one request, as the table's rows found them.
class NumberFields {
 public:
  // Integer rows hold their exact value, the others what JSON said.
  struct Number {
    int64_t integer = 0;
    double real = 0;
  };
  // Empty when the field is fine. A row that does not apply to this API is left alone by the caller.
  std::optional<ApiError> Read(const NumericLimit& limit, const JsonValue& value);
  const std::optional<Number>& operator[](NumericField field) const { return values_[static_cast<size_t>(field)]; }

 private:
  std::array<std::optional<Number>, static_cast<size_t>(NumericField::kCount)> values_;
};

// The value as a whole number. 3.0 counts; what a double cannot hold exactly does not.
std::optional<int64_t> AsInteger(const JsonValue& value);

// An object; what it holds lives as long as its parser. Works in memory proportional to the body.
std::variant<JsonObject, ApiError> ParseJsonBody(simdjson::dom::parser& parser, std::string_view body,
                                                 const SizeLimits& limits);

// No member is there twice.
std::optional<ApiError> CheckNamesOnce(const JsonObject& object);

// The same error, of a field inside `where`.
std::optional<ApiError> WithPlace(std::string_view where, std::optional<ApiError> error);

// Members that may be missing or null: nothing changes then.
std::optional<ApiError> ReadFlag(const JsonObject& object, std::string_view name, bool& flag);
std::optional<ApiError> ReadText(const JsonObject& object, std::string_view name, size_t max_bytes, std::string& text);

// "must be a whole number between 1 and 16"
std::string RangeText(const NumericLimit& limit);

inline bool IsNull(const JsonValue& value) { return value.is_null(); }
// Null where the type is another one.
inline std::optional<std::string_view> AsString(const JsonValue& value) {
  std::string_view text;
  if (value.get(text) != simdjson::SUCCESS) return std::nullopt;
  return text;
}
inline std::optional<bool> AsBool(const JsonValue& value) {
  bool flag = false;
  if (value.get(flag) != simdjson::SUCCESS) return std::nullopt;
  return flag;
}
inline std::optional<JsonObject> AsObject(const JsonValue& value) {
  JsonObject object;
  if (value.get(object) != simdjson::SUCCESS) return std::nullopt;
  return object;
}
inline std::optional<JsonArray> AsArray(const JsonValue& value) {
  JsonArray array;
  if (value.get(array) != simdjson::SUCCESS) return std::nullopt;
  return array;
}
inline std::optional<JsonValue> Member(const JsonObject& object, std::string_view name) {
  JsonValue value;
  if (object.at_key(name).get(value) != simdjson::SUCCESS) return std::nullopt;
  return value;
}

inline std::optional<std::string_view> TextMember(const JsonObject& object, std::string_view name) {
  const auto value = Member(object, name);
  return value ? AsString(*value) : std::nullopt;
}

}  // namespace longshelf::router
