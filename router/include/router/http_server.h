#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "net/tls_identity.h"
#include "router/http_message.h"
#include "router/limits.h"
#include "router/metrics.h"

// The public HTTP/1.1 door: connections, limits, time-outs. What is behind a path is the handler's business.
namespace longshelf::router {

class HttpExchangeObserver {
 public:
  virtual ~HttpExchangeObserver() = default;
  // The client is gone or was dropped; nothing written from here on arrives.
  virtual void OnClientGone() = 0;
  // What was written has mostly been sent: unsent_bytes() is low again.
  virtual void OnDrained() = 0;
};

// One request's way back to its client. Owner: the router loop.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  // Null to hear nothing any more. At most one.
  virtual void SetObserver(HttpExchangeObserver* observer) = 0;
  // Either one Reply, or BeginStream, any number of Write, and End or EndAndClose.
  virtual void Reply(HttpReply reply) = 0;
  virtual void BeginStream(HttpReply head) = 0;
  virtual void Write(std::string_view data) = 0;
  virtual void End() = 0;
  // What was written is still sent; the connection takes no further request.
  virtual void EndAndClose() = 0;
  virtual size_t unsent_bytes() const = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // The header is here, the body is not: an answer refuses the request without reading it.
  virtual std::optional<HttpReply> OnHeader(const HttpRequest& request) = 0;
  virtual void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;
  // For requests that never became one: "400" and friends in the API's error shape. `x_request_id`: as far as it came.
  virtual HttpReply TransportError(int status, const std::string& why, const std::string& x_request_id) = 0;
  // Who pays for the body of a request that OnHeader let through: bodies that are here are shared out between payers.
  // Empty: whoever sends from that address.
  virtual std::string PayerOf(const HttpRequest& /*request*/) { return ""; }
  // Runs `work` on another thread and `done` on the loop; `n_bytes` says how long it may take. False: there is enough
  // to do already, and nothing is run.
  virtual bool RunOffLoop(const HttpRequest& /*request*/, uint64_t /*n_bytes*/, std::function<void()> work,
                          std::function<void()> done) {
    work();
    done();
    return true;
  }
};

struct HttpServerConfig {
  std::string listen = "127.0.0.1:8080";  // an IP address and a port; port 0 takes a free one
  // With it HTTPS is spoken, and nothing else; with an authority, only with clients that it has signed for.
  std::shared_ptr<net::TlsIdentity> tls = {};
  size_t connections_max = 4096;
  size_t connections_per_address_max = 2048;
  size_t body_bytes_max = kSizeLimits.body_bytes;
  // Of all connections together, from the first byte until the request is prepared; see body_budget.h.
  size_t bodies_bytes_max = size_t{1} << 30;
  absl::Duration header_timeout = absl::Seconds(10);     // also of a TLS handshake
  absl::Duration body_idle_timeout = absl::Seconds(30);  // without a byte of the body, however slow it is
  absl::Duration body_timeout = absl::Hours(1);          // for the whole body
  absl::Duration idle_timeout = absl::Seconds(75);       // between two requests of a connection
  absl::Duration write_timeout = absl::Seconds(30);      // without a byte taken, the client is dropped
  uint32_t requests_per_connection_max = 10'000;
  std::vector<std::string> cors_origins = {};  // whose pages may read our answers; "*" for all
};

// Accepts and serves on `loop`; all handler calls happen there.
class HttpServer {
 public:
  // UNAVAILABLE: cannot listen. INVALID_ARGUMENT: not an address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpServerConfig config, boost::asio::io_context& loop,
                                                           HttpHandler& handler, RouterMetrics& metrics);
  class Impl;
  explicit HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  ~HttpServer();

  uint16_t port() const;
  size_t n_connections() const;  // loop thread only
  // Idle connections close, others after their current answer. New ones are still accepted, so that probes and clients
  // are told what happens; they close after one answer. Loop thread only.
  void BeginDrain();
  // Closes everything. Loop thread only.
  void CloseAll();

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace longshelf::router
