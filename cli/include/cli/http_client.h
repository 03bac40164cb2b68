#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "net/tls_context.h"
#include "net/tls_identity.h"

namespace longshelf::cli {

struct HttpUrl {
  std::string host;
  uint16_t port = 80;
  std::string path = {};  // without a trailing slash; "" for none
  bool tls = false;
};

// "http://HOST[:PORT][/PATH]", or https. INVALID_ARGUMENT otherwise.
absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view text);

struct HttpCall {
  std::string method = "GET";
  std::string target;  // "/v1/models"
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration idle_timeout = absl::Seconds(300);  // between two pieces of the answer
  int interrupt_fd = -1;                             // readable = stop; not read from here
  // For https: whom to believe, and with which certificate to call, if any; MakeCallContext.
  net::SslContext tls = {};
  // For a 200: gets the body piece by piece, instead of HttpAnswer::body.
  std::function<void(absl::string_view piece)> on_body;
};

struct HttpAnswer {
  int status = 0;
  std::string body;
};

// From PEM files. No authority: those of the system. INVALID_ARGUMENT, NOT_FOUND: what is wrong with a file.
absl::StatusOr<net::SslContext> MakeCallContext(const net::TlsFiles& files);

// One request on one connection, on the calling thread.
// UNAVAILABLE: cannot connect, the server is not whom the URL names, or the connection broke. DEADLINE_EXCEEDED:
// silence for too long. CANCELLED: interrupted. RESOURCE_EXHAUSTED: a collected body above 4 MiB or headers above 64
// KiB.
absl::StatusOr<HttpAnswer> CallHttp(const HttpUrl& url, const HttpCall& call);

}  // namespace longshelf::cli
