#include <spdlog/spdlog.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <unordered_set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "connection.h"
#include "cors.h"
#include "net/log_gate.h"
#include "response.h"
#include "router/body_budget.h"
#include "router/http_server.h"

namespace longshelf::router {
namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

constexpr absl::Duration kAcceptBackoff = absl::Milliseconds(100);
constexpr size_t kRefusedMax = 256;  // connections that are being told that there are too many

absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("`", listen, "` is not ADDRESS:PORT"));
  }
  std::string host = listen.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("`", host, "` is not an IP address"));
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

}  // namespace

class HttpServer::Impl final : public HttpConnectionOwner, public std::enable_shared_from_this<HttpServer::Impl> {
 public:
  Impl(HttpServerConfig config, asio::io_context& loop, HttpHandler& handler, RouterMetrics& metrics)
      : config_(std::move(config)),
        acceptor_(loop),
        backoff_(loop),
        handler_(handler),
        metrics_(metrics),
        bodies_(config_.bodies_bytes_max),
        cors_(config_.cors_origins) {}

  absl::Status Listen() {
    auto endpoint = ParseEndpoint(config_.listen);
    if (!endpoint.ok()) return endpoint.status();
    boost::system::error_code error;
    acceptor_.open(endpoint->protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(*endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return absl::UnavailableError(absl::StrCat("cannot listen on ", config_.listen, ": ", error.message()));
    port_ = acceptor_.local_endpoint(error).port();
    return absl::OkStatus();
  }

  void Accept() {
    acceptor_.async_accept([self = shared_from_this()](boost::system::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || self->closed_) return;
      if (!error) {
        self->OnAccepted(std::move(socket));
        return self->Accept();
      }
      // Out of descriptors or memory: those open go on, new ones wait in the kernel's queue.
      spdlog::warn("accept: {}", error.message());
      self->backoff_.expires_after(absl::ToChronoMilliseconds(kAcceptBackoff));
      self->backoff_.async_wait([self](boost::system::error_code cancelled) {
        if (!cancelled) self->Accept();
      });
    });
  }

  void BeginDrain() {
    draining_ = true;
    for (const auto& connection : Snapshot()) connection->CloseWhenIdle();
  }

  void CloseAll() {
    draining_ = true;
    closed_ = true;
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    backoff_.cancel();
    for (const auto& connection : Snapshot()) connection->Abort();
    for (const auto& connection : Refused()) connection->Abort();
  }

  uint16_t port() const { return port_; }
  size_t n_connections() const { return connections_.size(); }
  bool draining() const override { return draining_; }
  BodyBudget& bodies() override { return bodies_; }
  const Cors& cors() const override { return cors_; }
  const std::string& DateNow() override {
    const int64_t now_s = absl::ToUnixSeconds(absl::Now());
    if (std::exchange(date_unix_s_, now_s) != now_s) date_ = HttpDate(absl::FromUnixSeconds(now_s));
    return date_;
  }

  void OnHandshakeFailed(const HttpConnection& connection, boost::system::error_code why) override {
    metrics_.TlsHandshakeFailed();
    const std::string words = net::WhyHandshakeFailed(why);
    if (words.empty()) return;
    if (const auto n_passed_over = handshakes_.Open(absl::Now())) {
      spdlog::warn("HTTP: a TLS handshake with {} failed: {} ({} more since the last)", connection.peer().to_string(),
                   words, *n_passed_over);
    }
  }

  void OnConnectionClosed(HttpConnection& connection) override {
    if (connection.is_refused()) {
      refused_.erase(connection.shared_from_this());
      return;
    }
    const auto it = per_address_.find(connection.peer());
    if (it != per_address_.end() && --it->second == 0) per_address_.erase(it);
    connections_.erase(connection.shared_from_this());
    metrics_.ConnectionsOpen(connections_.size());
  }

 private:
  void OnAccepted(tcp::socket socket) {
    auto connection = std::make_shared<HttpConnection>(std::move(socket), ContextNow(), config_, handler_, *this);
    size_t& n_from_address = per_address_[connection->peer()];
    if (connections_.size() >= config_.connections_max || n_from_address >= config_.connections_per_address_max) {
      if (n_from_address == 0) per_address_.erase(connection->peer());
      metrics_.ConnectionRefused();
      return Refuse(std::move(connection));
    }
    ++n_from_address;
    connections_.insert(connection);
    metrics_.ConnectionsOpen(connections_.size());
    connection->Start();
  }

  // It is told so when that costs little: with TLS it would be a handshake.
  void Refuse(std::shared_ptr<HttpConnection> connection) {
    if (config_.tls != nullptr || refused_.size() >= kRefusedMax) return;  // destroys the socket
    refused_.insert(connection);
    connection->StartAndRefuse();
  }

  net::SslContext ContextNow() const {
    if (config_.tls == nullptr) return nullptr;
    return config_.tls->server_context(config_.tls->has_authority() ? net::PeerCertificate::kRequired
                                                                    : net::PeerCertificate::kNone);
  }

  std::vector<std::shared_ptr<HttpConnection>> Snapshot() const { return {connections_.begin(), connections_.end()}; }
  std::vector<std::shared_ptr<HttpConnection>> Refused() const { return {refused_.begin(), refused_.end()}; }

  const HttpServerConfig config_;
  tcp::acceptor acceptor_;
  asio::steady_timer backoff_;
  HttpHandler& handler_;
  RouterMetrics& metrics_;
  net::LogGate handshakes_;
  std::unordered_set<std::shared_ptr<HttpConnection>> connections_;
  std::unordered_set<std::shared_ptr<HttpConnection>> refused_;
  std::map<asio::ip::address, size_t> per_address_;
  uint16_t port_ = 0;
  BodyBudget bodies_;
  const Cors cors_;
  std::string date_;
  int64_t date_unix_s_ = -1;
  bool draining_ = false;
  bool closed_ = false;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerConfig config, asio::io_context& loop,
                                                              HttpHandler& handler, RouterMetrics& metrics) {
  auto impl = std::make_shared<Impl>(std::move(config), loop, handler, metrics);
  if (const absl::Status status = impl->Listen(); !status.ok()) return status;
  impl->Accept();
  return std::make_unique<HttpServer>(std::move(impl));
}

HttpServer::~HttpServer() { impl_->CloseAll(); }
uint16_t HttpServer::port() const { return impl_->port(); }
size_t HttpServer::n_connections() const { return impl_->n_connections(); }
void HttpServer::BeginDrain() { impl_->BeginDrain(); }
void HttpServer::CloseAll() { impl_->CloseAll(); }

}  // namespace longshelf::router
