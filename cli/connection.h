#pragma once

#include <poll.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/http_client.h"

struct ssl_st;

namespace longshelf::cli {

// One connection of CallHttp to its server, with TLS or without. Never waits longer than the call allows, nor when it
// is interrupted. Owner: the calling thread.
class Connection {
 public:
  // UNAVAILABLE: cannot connect; the server's certificate is not for the URL's host, or nobody we believe has signed
  // it. CANCELLED, DEADLINE_EXCEEDED: see CallHttp.
  static absl::StatusOr<Connection> Open(const HttpUrl& url, const HttpCall& call);
  ~Connection();
  Connection(Connection&& other) noexcept : fd_(std::exchange(other.fd_, -1)), ssl_(std::move(other.ssl_)) {}
  Connection& operator=(Connection&&) = delete;

  absl::Status SendAll(absl::string_view bytes, const HttpCall& call);
  // At least one byte into `piece`; 0 at the end.
  absl::StatusOr<size_t> Receive(char* piece, size_t n_max, const HttpCall& call);

 private:
  struct SslFree {
    void operator()(ssl_st* ssl) const;
  };

  explicit Connection(int fd) : fd_(fd) {}
  absl::Status AgreeOnTls(const HttpUrl& url, const HttpCall& call);
  // After `result` of an operation of OpenSSL's: waits for what it needs to go on.
  absl::Status AwaitTls(int result, absl::Duration timeout, const HttpCall& call, absl::string_view what);

  int fd_;
  std::unique_ptr<ssl_st, SslFree> ssl_;
};

}  // namespace longshelf::cli
