#include "config_reader.h"

#include <type_traits>

#include "absl/status/status.h"
#include "common/status.h"
#include "text.h"

namespace longshelf::engine {

using simdjson::dom::element;

bool ConfigReader::Has(std::string_view key) const {
  const auto it = fields_.find(key);
  return it != fields_.end() && !it->second.is_null();
}

bool ConfigReader::IsNull(std::string_view key) const {
  const auto it = fields_.find(key);
  return it != fields_.end() && it->second.is_null();
}

template <typename T>
absl::StatusOr<T> ConfigReader::Number(const Keys& keys, T min, T max, std::optional<T> fallback,
                                       std::string_view kind) const {
  std::optional<T> found;
  for (const std::string_view key : keys) {
    if (!Has(key)) {
      continue;
    }
    const element& given = fields_.at(key);
    std::optional<T> read;
    if constexpr (std::is_same_v<T, int64_t>) {
      read = WholeNumber(given);
    } else if (T real = 0; given.get<T>().get(real) == simdjson::SUCCESS) {
      read = real;
    }
    if (!read.has_value()) {
      const std::string is = given.is_number() ? Cat("is ", simdjson::minify(given), ", ") : "";
      return absl::InvalidArgumentError(Cat(Name(key), ": ", is, "must be ", kind, " from ", min, " to ", max));
    }
    const T value = *read;
    if (!(value >= min && value <= max)) {
      return absl::InvalidArgumentError(Cat(Name(key), ": is ", value, ", must be from ", min, " to ", max));
    }
    if (found.has_value() && *found != value) {
      return absl::InvalidArgumentError(Cat(Name(key), ": is ", value, ", but ", Name(keys.front()), " is ", *found));
    }
    found = value;
  }
  if (!found.has_value()) {
    found = fallback;
  }
  if (!found.has_value()) {
    return absl::InvalidArgumentError(Cat(Name(keys.front()), ": missing"));
  }
  return *found;
}

absl::StatusOr<int64_t> ConfigReader::Int(const Keys& keys, int64_t min, int64_t max,
                                          std::optional<int64_t> fallback) const {
  return Number<int64_t>(keys, min, max, fallback, "an integer");
}

absl::StatusOr<double> ConfigReader::Double(const Keys& keys, double min, double max,
                                            std::optional<double> fallback) const {
  return Number<double>(keys, min, max, fallback, "a number");
}

absl::StatusOr<int64_t> ConfigReader::FirstInt(std::string_view key, int64_t min, int64_t max, int64_t fallback) const {
  if (Has(key) && fields_.at(key).is_array()) {
    ASSIGN_OR_RETURN(const std::optional<std::vector<int64_t>> list, IntList(key, 64, min, max));
    return list->empty() ? fallback : list->front();
  }
  return Int({key}, min, max, fallback);
}

absl::StatusOr<std::optional<std::string>> ConfigReader::String(const Keys& keys) const {
  for (const std::string_view key : keys) {
    if (!Has(key)) {
      continue;
    }
    std::string_view value;
    if (fields_.at(key).get_string().get(value) != simdjson::SUCCESS) {
      return absl::InvalidArgumentError(Cat(Name(key), ": must be a string"));
    }
    return std::string(value);
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<std::vector<std::string>>> ConfigReader::StringList(std::string_view key,
                                                                                 size_t max_items) const {
  if (!Has(key)) {
    return std::nullopt;
  }
  simdjson::dom::array array;
  if (fields_.at(key).get_array().get(array) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(Cat(Name(key), ": must be a list of strings"));
  }
  std::vector<std::string> values;
  for (const element item : array) {
    std::string_view value;
    if (item.get_string().get(value) != simdjson::SUCCESS || values.size() == max_items) {
      return absl::InvalidArgumentError(Cat(Name(key), ": must be a list of at most ", max_items, " strings"));
    }
    values.emplace_back(value);
  }
  return values;
}

absl::StatusOr<std::optional<std::vector<int64_t>>> ConfigReader::IntList(std::string_view key, size_t max_items,
                                                                          int64_t min, int64_t max) const {
  if (!Has(key)) {
    return std::nullopt;
  }
  simdjson::dom::array array;
  if (fields_.at(key).get_array().get(array) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(Cat(Name(key), ": must be a list of integers"));
  }
  std::vector<int64_t> values;
  for (const element item : array) {
    const std::optional<int64_t> value = WholeNumber(item);
    if (values.size() == max_items || !value.has_value() || *value < min || *value > max) {
      return absl::InvalidArgumentError(Cat(Name(key), "[", values.size(), "]: must be a list of at most ", max_items,
                                            " integers from ", min, " to ", max));
    }
    values.push_back(*value);
  }
  return values;
}

absl::StatusOr<std::optional<ConfigReader>> ConfigReader::Object(std::string_view key) const {
  if (!Has(key)) {
    return std::nullopt;
  }
  ASSIGN_OR_RETURN(JsonFields fields, UniqueFields(fields_.at(key), Name(key)));
  return ConfigReader(std::move(fields), Cat(Name(key), "."));
}

absl::Status ConfigReader::ExpectString(const Keys& keys, std::string_view expected) const {
  ASSIGN_OR_RETURN(const std::optional<std::string> value, String(keys));
  if (value.has_value() && *value != expected) {
    return absl::InvalidArgumentError(
        Cat(Name(keys.front()), ": is ", QuotedName(*value), ", must be ", QuotedName(expected)));
  }
  return absl::OkStatus();
}

absl::Status ConfigReader::ExpectBool(std::string_view key, bool expected) const {
  if (!Has(key)) {
    return absl::OkStatus();
  }
  bool value = false;
  if (fields_.at(key).get_bool().get(value) != simdjson::SUCCESS || value != expected) {
    return absl::InvalidArgumentError(Cat(Name(key), ": must be ", expected ? "true" : "false"));
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
