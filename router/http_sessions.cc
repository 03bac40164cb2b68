#include "router/http_sessions.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "api_forms.h"
#include "json_dump.h"
#include "router/api_error.h"
#include "session_json.h"

namespace longshelf::router {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kPageDefault = 20;
constexpr uint32_t kPageMax = 100;

HttpReply JsonReply(const Json& json) {
  HttpReply reply;
  reply.body = DumpJson(json);
  return reply;
}

// Answers with what `convert` makes of it.
template <typename T, typename Convert>
Sessions::Done<T> Answer(HttpSessions::Reply reply, Convert convert) {
  return [reply = std::move(reply), convert](const std::variant<T, ApiError>& result) {
    const auto* error = std::get_if<ApiError>(&result);
    reply(error != nullptr ? ErrorReply(*error) : JsonReply(convert(std::get<T>(result))));
  };
}

// Empty when the query is fine.
std::optional<ApiError> ReadQuery(std::string_view query, uint32_t& limit, std::string& after) {
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(query.data(), query.size()), '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> field = absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (field.first == "after") {
      after = std::string(field.second);
    } else if (field.first == "limit") {
      if (!absl::SimpleAtoi(field.second, &limit) || limit < 1 || limit > kPageMax) {
        return InvalidField("limit", absl::StrCat("must be a whole number between 1 and ", kPageMax));
      }
    } else {
      return InvalidField(std::string(field.first.substr(0, 64)),
                          "is not a parameter of this path: it takes limit and after");
    }
  }
  return std::nullopt;
}

// Empty when the query is fine.
std::optional<ApiError> ReadUserQuery(std::string_view query, std::string& user_id) {
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(query.data(), query.size()), '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> field = absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (field.first != "user_id") {
      return InvalidField(std::string(field.first.substr(0, 64)), "is not a parameter of this path: it takes user_id");
    }
    user_id = std::string(field.second);
    if (user_id.empty()) return InvalidField("user_id", "must not be empty: leave it out to delete the tenant's own");
  }
  return std::nullopt;
}

}  // namespace

void HttpSessions::List(const Tenant& tenant, std::string_view query, Reply reply) {
  uint32_t limit = kPageDefault;
  std::string after;
  if (const auto error = ReadQuery(query, limit, after)) return reply(ErrorReply(*error));
  core_.sessions().List(tenant, after, limit,
                        Answer<SessionStore::Page>(std::move(reply), [](const SessionStore::Page& page) {
                          Json data = Json::array();
                          for (const SessionInfo& info : page.sessions) data.push_back(SessionJson(info));
                          Json list = {{"object", "list"},
                                       {"data", std::move(data)},
                                       {"has_more", !page.next.empty()},
                                       {"next", page.next.empty() ? Json() : Json(page.next)}};
                          if (page.n_unreadable > 0) list["n_unreadable"] = page.n_unreadable;
                          return list;
                        }));
}

void HttpSessions::Find(const Tenant& tenant, std::string_view id, Reply reply) {
  if (const auto error = CheckSessionId(id)) return reply(ErrorReply(*error));
  core_.sessions().Find(tenant, std::string(id), Answer<SessionInfo>(std::move(reply), SessionJson));
}

void HttpSessions::Delete(const Tenant& tenant, std::string_view id, Reply reply) {
  if (const auto error = CheckSessionId(id)) return reply(ErrorReply(*error));
  core_.sessions().Delete(tenant, std::string(id), Answer<SessionInfo>(std::move(reply), [](const SessionInfo& info) {
                            return Json{{"object", "session.deleted"}, {"id", info.id}, {"deleted", true}};
                          }));
}

void HttpSessions::DeleteCache(const Tenant& tenant, std::string_view query, Reply reply) {
  std::string user_id;
  if (const auto error = ReadUserQuery(query, user_id)) return reply(ErrorReply(*error));
  core_.DeleteCache(tenant, user_id,
                    Answer<Namespaces::Deleted>(std::move(reply), [user_id](const Namespaces::Deleted& deleted) {
                      return Json{{"object", "cache.deleted"},
                                  {"user_id", user_id.empty() ? Json() : Json(user_id)},
                                  {"deleted", true},
                                  {"stores_missed", deleted.n_stores_missed}};
                    }));
}

void HttpSessions::Park(const Tenant& tenant, std::string_view id, std::string_view body, Reply reply) {
  if (const auto error = CheckSessionId(id)) return reply(ErrorReply(*error));
  const std::variant<ParkTerms, ApiError> terms = ParseParkBody(body, core_.parse_limits());
  if (const auto* error = std::get_if<ApiError>(&terms)) return reply(ErrorReply(*error));
  core_.sessions().Park(tenant, std::string(id), std::get<ParkTerms>(terms),
                        Answer<SessionInfo>(std::move(reply), SessionJson));
}

}  // namespace longshelf::router
