#include "json_fields.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "text.h"

namespace longshelf::engine {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr double kExactInDouble = 9007199254740992.0;  // 2^53

}  // namespace

absl::StatusOr<simdjson::dom::element> ParseJson(simdjson::dom::parser& parser, std::string_view text, size_t max_depth,
                                                 std::string_view what) {
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  if (text.empty()) {
    return absl::InvalidArgumentError(Cat(what, ": empty"));
  }
  simdjson::error_code error = parser.allocate(text.size(), max_depth);
  simdjson::dom::element root;
  if (error == simdjson::SUCCESS) {
    error = parser.parse(text.data(), text.size(), /*realloc_if_needed=*/true).get(root);
  }
  switch (error) {
    case simdjson::SUCCESS:
      return root;
    case simdjson::MEMALLOC:
      return absl::ResourceExhaustedError(Cat(what, ": no memory to parse ", text.size(), " bytes of JSON"));
    case simdjson::DEPTH_ERROR:
      return absl::InvalidArgumentError(Cat(what, ": JSON nested deeper than ", max_depth, " levels"));
    case simdjson::UTF8_ERROR:
      return absl::InvalidArgumentError(Cat(what, ": not valid UTF-8"));
    default:
      return absl::InvalidArgumentError(Cat(what, ": not valid JSON: ", simdjson::error_message(error)));
  }
}

std::optional<int64_t> WholeNumber(simdjson::dom::element element) {
  int64_t integer = 0;
  if (element.is_int64() && element.get(integer) == simdjson::SUCCESS) {
    return integer;
  }
  double real = 0;
  if (!element.is_double() || element.get(real) != simdjson::SUCCESS || std::trunc(real) != real ||
      std::abs(real) >= kExactInDouble) {
    return std::nullopt;
  }
  return static_cast<int64_t>(real);
}

absl::StatusOr<JsonFields> UniqueFields(simdjson::dom::element element, std::string_view what) {
  simdjson::dom::object object;
  if (element.get_object().get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(Cat(what, ": not a JSON object"));
  }
  JsonFields fields;
  for (const simdjson::dom::key_value_pair field : object) {
    if (!fields.emplace(field.key, field.value).second) {
      return absl::InvalidArgumentError(Cat(what, ": ", QuotedName(field.key), " is given twice"));
    }
  }
  return fields;
}

std::string QuotedName(std::string_view name) {
  constexpr size_t kShown = 160;
  const std::string_view shown = name.substr(0, kShown);
  return Cat("\"", absl::Utf8SafeCEscape(ToAbsl(shown)), name.size() > kShown ? "..." : "", "\"");
}

}  // namespace longshelf::engine
