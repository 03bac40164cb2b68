#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "router/http_server.h"

// The head of an answer (RFC 9110, RFC 9112).
namespace longshelf::router {

struct ResponseFraming {
  std::optional<size_t> length;  // of the body
  bool chunked = false;
  bool keep_alive = false;
  absl::Duration idle_timeout;  // of a connection that is kept
};

// `extra`: headers beside the reply's own.
std::string ResponseHead(const HttpReply& reply, const HttpFields& extra, const std::string& date,
                         const ResponseFraming& framing);
// 1xx, 204 and 304 have none (RFC 9110, 6.4.1).
bool MayHaveBody(int status);
// IMF-fixdate (RFC 9110, 5.6.7).
std::string HttpDate(absl::Time time);

}  // namespace longshelf::router
