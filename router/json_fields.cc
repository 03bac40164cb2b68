#include "json_fields.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr double kExactInDouble = 9007199254740992.0;  // 2^53

ApiError NotJson(std::string_view why) {
  ApiError error;
  error.code = "invalid_json";
  error.message = absl::StrCat("the request body ", absl::string_view(why.data(), why.size()));
  return error;
}

}  // namespace

std::optional<int64_t> AsInteger(const JsonValue& value) {
  int64_t integer = 0;
  if (value.is_int64() && value.get(integer) == simdjson::SUCCESS) return integer;
  double real = 0;
  if (value.is_double() && value.get(real) == simdjson::SUCCESS && std::trunc(real) == real &&
      std::abs(real) < kExactInDouble) {
    return static_cast<int64_t>(real);
  }
  return std::nullopt;
}

std::string RangeText(const NumericLimit& limit) {
  const char* kind = limit.integer ? "a whole number" : "a number";
  if (limit.min == std::numeric_limits<int64_t>::min() && limit.max == std::numeric_limits<int64_t>::max()) {
    return absl::StrCat("must be ", kind, " of 64 bits");
  }
  return absl::StrCat("must be ", kind, " between ", limit.min, " and ", limit.max);
}

std::optional<ApiError> NumberFields::Read(const NumericLimit& limit, const JsonValue& value) {
  if (limit.nullable && value.is_null()) return std::nullopt;
  Number number;
  bool in_range = false;
  if (limit.integer) {
    if (const auto integer = AsInteger(value)) {
      number.integer = *integer;
      number.real = static_cast<double>(*integer);
      in_range = *integer >= limit.min && *integer <= limit.max;
    }
  } else if (value.is_number() && value.get(number.real) == simdjson::SUCCESS) {
    in_range = number.real >= static_cast<double>(limit.min) && number.real <= static_cast<double>(limit.max);
  }
  if (!in_range) return InvalidField(limit.name, RangeText(limit));
  values_[static_cast<size_t>(limit.field)] = number;
  return std::nullopt;
}

std::optional<ApiError> WithPlace(std::string_view where, std::optional<ApiError> error) {
  if (!error) return error;
  const std::string place(where);
  error->message = absl::StrCat(place, ".", error->message);
  error->param = absl::StrCat(place, ".", error->param);
  return error;
}

std::optional<ApiError> CheckNamesOnce(const JsonObject& object) {
  std::set<std::string_view> seen;
  for (const auto& [name, value] : object) {
    if (!seen.insert(name).second) return InvalidField(name.substr(0, 64), "is given twice");
  }
  return std::nullopt;
}

std::optional<ApiError> ReadFlag(const JsonObject& body, std::string_view name, bool& flag) {
  const auto value = Member(body, name);
  if (!value || IsNull(*value)) return std::nullopt;
  const auto read = AsBool(*value);
  if (!read) return InvalidField(name, "must be true or false");
  flag = *read;
  return std::nullopt;
}

std::optional<ApiError> ReadText(const JsonObject& body, std::string_view name, size_t max_bytes, std::string& text) {
  const auto value = Member(body, name);
  if (!value || IsNull(*value)) return std::nullopt;
  const auto read = AsString(*value);
  if (!read || read->size() > max_bytes) {
    return InvalidField(name, absl::StrCat("must be a string of at most ", max_bytes, " bytes"));
  }
  text = std::string(*read);
  return std::nullopt;
}

std::variant<JsonObject, ApiError> ParseJsonBody(simdjson::dom::parser& parser, std::string_view body,
                                                 const SizeLimits& limits) {
  if (body.empty()) return NotJson("is empty: send a JSON object");
  if (parser.allocate(body.size(), limits.json_depth) != simdjson::SUCCESS) return NotJson("is too large");
  simdjson::dom::element root;
  const simdjson::padded_string padded(body);
  if (const auto code = parser.parse(padded).get(root); code != simdjson::SUCCESS) {
    if (code == simdjson::DEPTH_ERROR) {
      return NotJson(absl::StrCat("nests deeper than ", limits.json_depth, " levels"));
    }
    if (code == simdjson::NUMBER_ERROR) return NotJson("holds a number that is malformed or out of range");
    if (code == simdjson::UTF8_ERROR) return NotJson("is not valid UTF-8");
    return NotJson("is not valid JSON");
  }
  const auto object = AsObject(root);
  if (!object) return NotJson("must be a JSON object");
  return *object;
}

}  // namespace longshelf::router
