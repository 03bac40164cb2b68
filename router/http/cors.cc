#include "cors.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr std::string_view kMethods = "GET, HEAD, POST, DELETE, OPTIONS";
constexpr std::string_view kMaxAgeS = "7200";  // the most that Chrome keeps it
// What a page's script may read beside the few that it always may.
constexpr std::string_view kExposed =
    "x-request-id, request-id, Retry-After, WWW-Authenticate, Allow, Accept-Encoding, x-longshelf-session";

// What the page wants to send, when it is a list of header names; a list of what clients are known to send otherwise.
std::string HeadersOf(const HttpFields& request) {
  const auto wanted = ListOf(request, "access-control-request-headers");
  if (!std::all_of(wanted.begin(), wanted.end(), IsHttpToken) || wanted.empty()) {
    return "Authorization, Content-Type, x-api-key, x-request-id, x-longshelf-session";
  }
  std::string out;
  for (const std::string_view name : wanted) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", absl::string_view(name.data(), name.size()));
  }
  return out;
}

}  // namespace

Cors::Cors(std::vector<std::string> origins)
    : origins_(std::move(origins)), all_(std::find(origins_.begin(), origins_.end(), "*") != origins_.end()) {}

bool Cors::is_allowed(std::string_view origin) const {
  return !origin.empty() && (all_ || std::find(origins_.begin(), origins_.end(), origin) != origins_.end());
}

HttpFields Cors::AnswerHeaders(const HttpFields& request) const {
  HttpFields out;
  if (origins_.empty()) return out;
  const std::string_view origin = FieldOf(request, "origin");
  // A cache must not give one page's answer to another.
  if (!all_) out.emplace_back("Vary", "Origin");
  if (!all_ && !is_allowed(origin)) return out;
  out.emplace_back("Access-Control-Allow-Origin", all_ ? "*" : origin);
  out.emplace_back("Access-Control-Expose-Headers", kExposed);
  return out;
}

std::optional<HttpFields> Cors::Preflight(const RequestHead& head) const {
  if (head.method != "OPTIONS" || !is_allowed(FieldOf(head.fields, "origin"))) return std::nullopt;
  if (!IsHttpToken(FieldOf(head.fields, "access-control-request-method"))) return std::nullopt;
  HttpFields out;
  out.emplace_back("Access-Control-Allow-Methods", kMethods);
  out.emplace_back("Access-Control-Allow-Headers", HeadersOf(head.fields));
  out.emplace_back("Access-Control-Max-Age", kMaxAgeS);
  out.emplace_back("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers");
  return out;
}

}  // namespace longshelf::router
