#include "json_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr double kExactInDouble = 9007199254740992.0;  // 2^53

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

}  // namespace longshelf::router
