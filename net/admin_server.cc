#include "net/admin_server.h"

#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/status.h"
#include "net/log_gate.h"
#include "net/stream.h"

namespace longshelf {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using Request = http::request<http::string_body>;
using Response = http::response<http::string_body>;

constexpr uint32_t kHeaderBytesMax = 8 << 10;
constexpr uint64_t kBodyBytesMax = 0;

absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("expected ADDRESS:PORT such as 127.0.0.1:9100, got ", text));
  }
  std::string host = text.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(host, " in ", text, " is not an IP address"));
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

// "127.0.0.1:80", "[::1]", "localhost:80": what a client that was given an address sends. A rebound DNS name is
// neither.
bool IsAddressOrLocalhost(absl::string_view host) {
  if (!host.empty() && host.front() == '[') {
    host = host.substr(1, host.find(']') - 1);
  } else {
    host = host.substr(0, host.find(':'));
  }
  boost::system::error_code error;
  asio::ip::make_address(std::string(host), error);
  return !error || host == "localhost";
}

}  // namespace

struct AdminServer::State {
  AdminOptions options;
  AdminCallbacks callbacks;
  bool loopback = true;
  bool with_tls = false;
  bool mutual = false;
  SystemClock clock;
  net::LogGate refusals;
  int n_connections = 0;  // sessions that io still holds at the end count themselves down, so this outlives io
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer reminder{io};
  std::thread thread;

  void Accept();
  void RemindOfRisk();
  void OnRefused(boost::system::error_code why);
  Response Answer(const Request& request, const net::RoleSet& peer) const;
  std::pair<http::status, std::string> Route(const Request& request, const net::RoleSet& peer) const;
};

namespace {

// One connection: read, answer, repeat. Keeps itself alive through its handlers; lives on the server's thread.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, const net::SslContext& context, absl::Duration timeout, int* n_connections,
          std::function<Response(const Request&, const net::RoleSet& peer)> answer)
      : stream_(std::move(socket), context),
        timer_(stream_.get_executor()),
        timeout_(absl::ToChronoMilliseconds(timeout)),
        n_connections_(n_connections),
        answer_(std::move(answer)) {
    ++*n_connections_;
  }
  ~Session() { --*n_connections_; }

  // `on_refused` hears why a handshake failed.
  void Begin(std::function<void(beast::error_code)> on_refused) {
    if (!stream_.is_tls()) return Read();
    ArmTimer();
    stream_.AsyncHandshake([self = shared_from_this(), on_refused = std::move(on_refused)](beast::error_code error) {
      error ? on_refused(error) : self->Read();
    });
  }

 private:
  void Read() {
    parser_.emplace();
    parser_->header_limit(kHeaderBytesMax);
    parser_->body_limit(kBodyBytesMax);
    ArmTimer();
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](beast::error_code error, size_t) { self->OnRead(error); });
  }

  void OnRead(beast::error_code error) {
    if (!error) {
      response_ = answer_(parser_->get(), stream_.peer_roles());
      response_.keep_alive(parser_->keep_alive());
    } else if (error == http::error::header_limit || error == http::error::body_limit) {
      const bool header = error == http::error::header_limit;
      response_ =
          Response(header ? http::status::request_header_fields_too_large : http::status::payload_too_large, 11);
      response_.keep_alive(false);
    } else if (error.category() == make_error_code(http::error::bad_method).category() &&
               error != http::error::end_of_stream && error != http::error::partial_message) {
      response_ = Response(http::status::bad_request, 11);
      response_.keep_alive(false);
    } else {
      return;  // gone, or too slow
    }
    response_.prepare_payload();
    ArmTimer();
    http::async_write(stream_, response_, [self = shared_from_this()](beast::error_code write_error, size_t) {
      if (write_error) return;
      if (self->response_.keep_alive()) return self->Read();
      if (self->stream_.is_tls()) self->stream_.AsyncGoodbye([self](beast::error_code) {});
    });
  }

  // What is under way fails when it takes longer. The handler does not keep the session: its end frees a place.
  void ArmTimer() {
    timer_.expires_after(timeout_);
    timer_.async_wait([weak = weak_from_this()](beast::error_code error) {
      const auto self = weak.lock();
      if (error || self == nullptr || self->timer_.expiry() > std::chrono::steady_clock::now()) return;
      beast::error_code ignored;
      self->stream_.socket().close(ignored);
    });
  }

  net::Stream stream_;
  asio::steady_timer timer_;
  const std::chrono::milliseconds timeout_;
  int* n_connections_;
  const std::function<Response(const Request&, const net::RoleSet& peer)> answer_;
  beast::flat_buffer buffer_{kHeaderBytesMax + 4096};
  std::optional<http::request_parser<http::string_body>> parser_;
  Response response_;
};

}  // namespace

void AdminServer::State::Accept() {
  acceptor.async_accept([this](boost::system::error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (!error && n_connections < options.connections_max) {
      const auto peer = mutual ? net::PeerCertificate::kAsked : net::PeerCertificate::kNone;
      std::make_shared<Session>(
          std::move(socket), with_tls ? options.tls->server_context(peer) : nullptr, options.request_timeout,
          &n_connections, [this](const Request& request, const net::RoleSet& roles) { return Answer(request, roles); })
          ->Begin([this](boost::system::error_code why) { OnRefused(why); });
    }
    Accept();
  });
}

void AdminServer::State::OnRefused(boost::system::error_code why) {
  const std::string words = net::WhyHandshakeFailed(why);
  if (words.empty()) return;
  if (const auto n_passed_over = refusals.Open(clock.Now())) {
    spdlog::warn("admin port: a TLS handshake failed: {} ({} more since the last)", words, *n_passed_over);
  }
}

void AdminServer::State::RemindOfRisk() {
  spdlog::warn("the admin port is open to the network without a token (--insecure-internal)");
  reminder.expires_after(std::chrono::minutes(1));
  reminder.async_wait([this](boost::system::error_code error) {
    if (!error) RemindOfRisk();
  });
}

std::pair<http::status, std::string> AdminServer::State::Route(const Request& request, const net::RoleSet& peer) const {
  const absl::string_view path(request.target().data(), request.target().size());
  const bool is_probe = path == "/livez" || path == "/readyz" || path == "/healthz";
  if (!is_probe && !options.token.empty()) {
    const auto field = request[http::field::authorization];
    absl::string_view value(field.data(), field.size());
    if (!absl::ConsumePrefix(&value, "Bearer ") || !SameSecret(value, options.token)) {
      return {http::status::unauthorized, "needs the admin token\n"};
    }
  }
  if (!is_probe && mutual && !peer.Has(net::Role::kOperator)) {
    return {http::status::forbidden, "needs the certificate of an operator\n"};
  }
  if (!is_probe && path != "/metrics") return {http::status::not_found, "there are /livez, /readyz and /metrics\n"};
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    return {http::status::method_not_allowed, "GET only\n"};
  }
  if (path == "/livez") {
    const bool live = callbacks.live();
    return {live ? http::status::ok : http::status::service_unavailable, live ? "live\n" : "not live\n"};
  }
  if (path == "/metrics") return {http::status::ok, callbacks.metrics()};
  const Readiness readiness = callbacks.ready();
  return {readiness.ready ? http::status::ok : http::status::service_unavailable,
          absl::StrCat(readiness.ready ? "ready" : "not ready", readiness.detail.empty() ? "" : ": ", readiness.detail,
                       "\n")};
}

Response AdminServer::State::Answer(const Request& request, const net::RoleSet& peer) const {
  Response response(http::status::ok, 11);
  response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
  response.set(http::field::cache_control, "no-store");
  const auto host = request[http::field::host];
  const bool from_a_page = request.find(http::field::origin) != request.end();
  if (loopback && options.token.empty() && !mutual &&
      (from_a_page || !IsAddressOrLocalhost(absl::string_view(host.data(), host.size())))) {
    response.result(http::status::forbidden);
    response.body() = "use the address itself, not a name, and not from a web page\n";
    return response;
  }
  auto [status, body] = Route(request, peer);
  response.result(status);
  if (status == http::status::unauthorized) response.set(http::field::www_authenticate, "Bearer");
  if (status == http::status::method_not_allowed) response.set(http::field::allow, "GET, HEAD");
  if (request.method() != http::verb::head) response.body() = std::move(body);
  return response;
}

void AddAdminOptions(ConfigSpec& spec, AdminOptions* options) {
  spec.Group("Admin port");
  spec.Add(&options->listen, "admin-listen", "address and port of /livez, /readyz and /metrics");
  spec.AddSecretFile(&options->token, "admin-token-file", "file with the token that /metrics asks for");
  spec.AddChoice(
      &options->tls_mode, "admin-tls",
      "TLS on the admin port: auto = if there is --tls-cert; mutual = /metrics needs an operator's certificate",
      {"auto", "off", "on", "mutual"});
}

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(AdminOptions options, AdminCallbacks callbacks) {
  ASSIGN_OR_RETURN(const tcp::endpoint endpoint, ParseEndpoint(options.listen));
  const bool loopback = endpoint.address().is_loopback();
  const bool mutual = options.tls_mode == "mutual";
  if ((mutual || options.tls_mode == "on") && options.tls == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--admin-tls ", options.tls_mode, " needs a certificate: ", "set --tls-cert, --tls-key and --tls-ca"));
  }
  const bool is_open = !loopback && options.token.empty() && !mutual;
  if (is_open && !options.insecure_internal) {
    return absl::FailedPreconditionError(
        absl::StrCat("refusing to open the admin port on ", options.listen,
                     " without authentication: set --admin-token-file or --admin-tls mutual, listen on 127.0.0.1, or "
                     "accept the risk with --insecure-internal"));
  }
  auto state = std::make_unique<State>();
  state->loopback = loopback;
  state->with_tls = options.tls != nullptr && options.tls_mode != "off";
  state->mutual = mutual;
  boost::system::error_code error;
  auto& acceptor = state->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen, ": ", error.message()));
  }
  state->options = std::move(options);
  state->callbacks = std::move(callbacks);
  state->Accept();
  if (is_open) state->RemindOfRisk();
  state->thread = std::thread([raw = state.get()] { raw->io.run(); });
  return std::make_unique<AdminServer>(std::move(state));
}

AdminServer::AdminServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

AdminServer::~AdminServer() {
  state_->io.stop();
  state_->thread.join();
}

uint16_t AdminServer::port() const { return state_->acceptor.local_endpoint().port(); }

std::string AdminServer::url() const {
  const tcp::endpoint endpoint = state_->acceptor.local_endpoint();
  const std::string host = endpoint.address().to_string();
  return absl::StrCat(state_->with_tls ? "https://" : "http://",
                      endpoint.address().is_v6() ? absl::StrCat("[", host, "]") : host, ":", endpoint.port());
}

}  // namespace longshelf
