#include "response.h"

#include <boost/beast/http/status.hpp>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

absl::string_view ReasonPhrase(int status) {
  const auto phrase = boost::beast::http::obsolete_reason(static_cast<boost::beast::http::status>(status));
  return {phrase.data(), phrase.size()};
}

}  // namespace

bool MayHaveBody(int status) { return status >= 200 && status != 204 && status != 304; }

std::string HttpDate(absl::Time time) {
  return absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", time, absl::UTCTimeZone());
}

std::string ResponseHead(const HttpReply& reply, const HttpFields& extra, const std::string& date,
                         const ResponseFraming& framing) {
  std::string head = absl::StrCat("HTTP/1.1 ", reply.status, " ", ReasonPhrase(reply.status), "\r\nDate: ", date,
                                  "\r\nServer: longshelf\r\n");
  const bool has_body = MayHaveBody(reply.status);
  if (has_body) absl::StrAppend(&head, "Content-Type: ", reply.content_type, "\r\n");
  for (const auto* fields : {&reply.headers, &extra}) {
    for (const auto& [name, value] : *fields) absl::StrAppend(&head, name, ": ", value, "\r\n");
  }
  if (framing.chunked) absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  if (framing.length && has_body) absl::StrAppend(&head, "Content-Length: ", *framing.length, "\r\n");
  if (!framing.keep_alive) return head + "Connection: close\r\n\r\n";
  // Clients that know when we close do not send into a connection that is being closed.
  absl::StrAppend(&head, "Connection: keep-alive\r\nKeep-Alive: timeout=", absl::ToInt64Seconds(framing.idle_timeout),
                  "\r\n\r\n");
  return head;
}

}  // namespace longshelf::router
