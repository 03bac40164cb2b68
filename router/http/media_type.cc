#include "media_type.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "head.h"

namespace longshelf::router {
namespace {

absl::string_view Trimmed(std::string_view text) {
  return absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
}

bool IsJson(absl::string_view type) {
  return absl::EqualsIgnoreCase(type, "application/json") || absl::EqualsIgnoreCase(type, "text/json") ||
         (absl::StartsWithIgnoreCase(type, "application/") && absl::EndsWithIgnoreCase(type, "+json"));
}

// Of clients that were not told what they send.
bool IsSaidByDefault(absl::string_view type) {
  return absl::EqualsIgnoreCase(type, "application/x-www-form-urlencoded") ||
         absl::EqualsIgnoreCase(type, "text/plain");
}

// RFC 8259, 8.1. US-ASCII is a part of UTF-8.
bool IsUtf8(std::string_view parameters) {
  while (!parameters.empty()) {
    const size_t end = std::min(parameters.find(';'), parameters.size());
    const std::string_view parameter = parameters.substr(0, end);
    parameters.remove_prefix(std::min(end + 1, parameters.size()));
    const size_t equals = std::min(parameter.find('='), parameter.size());
    if (!absl::EqualsIgnoreCase(Trimmed(parameter.substr(0, equals)), "charset")) continue;
    absl::string_view value = Trimmed(parameter.substr(std::min(equals + 1, parameter.size())));
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    if (!absl::EqualsIgnoreCase(value, "utf-8") && !absl::EqualsIgnoreCase(value, "utf8") &&
        !absl::EqualsIgnoreCase(value, "us-ascii")) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::optional<ApiError> CheckMediaType(const HttpRequest& request) {
  const std::string_view type = FieldOf(request.fields, "content-type");
  const size_t type_end = std::min(type.find(';'), type.size());
  const std::string_view parameters = type.substr(std::min(type_end + 1, type.size()));
  const absl::string_view name = Trimmed(type.substr(0, type_end));
  const bool is_page = !FieldOf(request.fields, "origin").empty();
  const bool is_json = type.empty() || IsJson(name) || (!is_page && IsSaidByDefault(name));
  if (is_json && IsUtf8(parameters)) return std::nullopt;
  ApiError error;
  error.http_status = 415;
  error.code = "unsupported_media_type";
  error.message = "the request's Content-Type must be application/json, in UTF-8, or be left out";
  return error;
}

}  // namespace longshelf::router
