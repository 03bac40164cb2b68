#include "connection.h"

#include <boost/asio/buffer.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "head.h"

namespace longshelf::router {
namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

constexpr size_t kReadChunkBytes = size_t{16} << 10;
constexpr size_t kBodyTimeoutBytes = size_t{1} << 20;  // HttpServerConfig::body_timeout is for so many
constexpr size_t kLowWaterBytes = size_t{64} << 10;
constexpr absl::Duration kLingerTimeout = absl::Seconds(2);

std::string_view ReasonPhrase(int status) {
  const auto phrase = http::obsolete_reason(static_cast<http::status>(status));
  return {phrase.data(), phrase.size()};
}

std::string BodyTooLarge(const HttpServerConfig& config) {
  return absl::StrCat("the request body is larger than ", config.body_bytes_max,
                      " bytes, the server's limit: send less, or start the router with a larger --body-max");
}

std::string HeaderValue(const http::request<http::string_body>& message, std::string_view name) {
  const auto value = message[boost::core::string_view(name.data(), name.size())];
  return {value.data(), value.size()};
}

}  // namespace

HttpConnection::HttpConnection(asio::ip::tcp::socket socket, const net::SslContext& context,
                               const HttpServerConfig& config, HttpHandler& handler, HttpConnectionOwner& owner)
    : stream_(std::move(socket), context),
      config_(config),
      handler_(handler),
      owner_(owner),
      read_timer_(stream_.get_executor()),
      write_timer_(stream_.get_executor()),
      read_chunk_(kReadChunkBytes) {
  ErrorCode ignored;
  const auto endpoint = stream_.socket().remote_endpoint(ignored);
  if (!ignored) peer_ = endpoint.address();
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  stream_.socket().non_blocking(true, ignored);
}

void HttpConnection::Start() {
  if (!stream_.is_tls()) return AwaitRequest();
  ArmTimer(config_.header_timeout, &HttpConnection::Close);
  stream_.AsyncHandshake([self = shared_from_this()](ErrorCode error) {
    if (self->closed_) return;
    if (!error) return self->AwaitRequest();
    self->owner_.OnHandshakeFailed(*self, error);
    self->Close();
  });
}

void HttpConnection::ArmTimer(absl::Duration timeout, void (HttpConnection::*on_timeout)()) {
  read_timer_.expires_after(absl::ToChronoNanoseconds(timeout));
  read_timer_.async_wait([self = shared_from_this(), on_timeout](ErrorCode error) {
    if (!error && !self->closed_) (self.get()->*on_timeout)();
  });
}

// ---- Reading ----

// One read at a time: when one is under way, what it brings gets a new meaning.
void HttpConnection::Read(Reading reading) {
  reading_ = reading;
  if (std::exchange(read_in_flight_, true)) return;
  stream_.async_read_some(asio::buffer(read_chunk_), [self = shared_from_this()](ErrorCode error, size_t n) {
    self->read_in_flight_ = false;
    if (!self->closed_) self->OnRead(error, n);
  });
}

void HttpConnection::OnRead(ErrorCode error, size_t n) {
  if (reading_ == Reading::kBody && body_given_up_) return;
  if (error) return reading_ == Reading::kAhead ? Abort() : Close();
  const std::string_view bytes(read_chunk_.data(), n);
  switch (reading_) {
    case Reading::kHeader:
      return OnBytesForHeader(bytes);
    case Reading::kBody:
      return OnBytesForBody(bytes);
    case Reading::kAhead:
      // The client sent its next request early. No more is read before this one is answered, so only then its end can
      // be seen.
      received_ += bytes;
      return;
    case Reading::kNothing:
      return;
  }
}

void HttpConnection::AwaitRequest() {
  parser_.emplace();
  parser_->body_limit(config_.body_bytes_max);
  parser_->header_limit(static_cast<uint32_t>(kSizeLimits.header_bytes));
  parser_->eager(true);
  if (!received_.empty()) {
    ArmTimer(config_.header_timeout, &HttpConnection::Close);
    return OnHeaderBytes();
  }
  ArmTimer(config_.idle_timeout, &HttpConnection::Close);
  Read(Reading::kHeader);
}

void HttpConnection::OnBytesForHeader(std::string_view bytes) {
  // The header's own deadline starts with its first byte.
  if (received_.empty()) ArmTimer(config_.header_timeout, &HttpConnection::Close);
  received_ += bytes;
  OnHeaderBytes();
}

void HttpConnection::OnHeaderBytes() {
  const HeaderScanResult scan = ScanHeader(received_);
  switch (scan.state) {
    case HeaderScan::kIncomplete:
      return Read(Reading::kHeader);
    case HeaderScan::kTooLarge:
      return Refuse(431, absl::StrCat("the request's headers are larger than ", kSizeLimits.header_bytes, " bytes"));
    case HeaderScan::kMalformed:
      return Refuse(400, "the request's headers are malformed");
    case HeaderScan::kComplete:
      return OnHeaderComplete(scan.end);
  }
}

void HttpConnection::OnHeaderComplete(size_t n_header_bytes) {
  const std::string_view block = std::string_view(received_).substr(0, n_header_bytes);
  if (const std::string why = CheckHeader(block); !why.empty()) return Refuse(400, "the request has " + why);
  ErrorCode error;
  parser_->put(asio::buffer(block.data(), block.size()), error);
  if (error == http::error::body_limit) {
    return Refuse(413, BodyTooLarge(config_));
  }
  if ((error && error != http::error::need_more) || !parser_->is_header_done()) {
    return Refuse(400, "the request's headers are malformed");
  }
  received_.erase(0, n_header_bytes);
  keep_alive_ = parser_->keep_alive();
  http_1_0_ = parser_->get().version() < 11;
  const std::string expect = HeaderValue(parser_->get(), "Expect");
  HttpRequest head = TakeRequest();
  if (auto refusal = handler_.OnHeader(head)) {
    if (!parser_->is_done()) return ReplyAndClose(*std::move(refusal));
    answering_ = true;
    return Reply(*std::move(refusal));
  }
  if (absl::EqualsIgnoreCase(expect, "100-continue") && !parser_->is_done() && received_.empty()) {
    Send("HTTP/1.1 100 Continue\r\n\r\n");
  }
  AllowMoreBody();
  ReadBody();
}

void HttpConnection::AllowMoreBody() { ArmTimer(config_.body_timeout, &HttpConnection::OnBodyTimeout); }

void HttpConnection::OnBodyTimeout() {
  body_given_up_ = true;
  Refuse(408, absl::StrCat("the request body came too slowly: ", absl::FormatDuration(config_.body_timeout),
                           " are allowed for each MiB; send it faster, or less of it"));
}

void HttpConnection::ReadBody() {
  while (!parser_->is_done() && !received_.empty()) {
    ErrorCode error;
    const size_t n_used = parser_->put(asio::buffer(received_), error);
    received_.erase(0, n_used);
    if (error == http::error::need_more) break;
    if (error == http::error::body_limit) {
      return Refuse(413, BodyTooLarge(config_));
    }
    if (error) return Refuse(400, "the request body is malformed");
  }
  if (parser_->is_done()) return OnRequestComplete();
  // What is left is the start of a chunk's header, which the parser wants whole.
  if (received_.size() > kSizeLimits.header_bytes) return Refuse(400, "the request body is malformed");
  Read(Reading::kBody);
}

void HttpConnection::OnBytesForBody(std::string_view bytes) {
  if (!owner_.HoldBodyBytes(bytes.size())) {
    return Refuse(503, "too many request bodies are being received at once: retry later");
  }
  const size_t n_before = std::exchange(n_body_read_, n_body_read_ + bytes.size());
  if (n_before / kBodyTimeoutBytes != n_body_read_ / kBodyTimeoutBytes) AllowMoreBody();
  received_ += bytes;
  ReadBody();
}

HttpRequest HttpConnection::TakeRequest() {
  const auto& message = parser_->get();
  HttpRequest request;
  const auto method = message.method_string();
  request.method.assign(method.data(), method.size());
  const auto target = message.target();
  const std::string_view whole(target.data(), target.size());
  const size_t path_end = std::min(whole.find('?'), whole.size());
  request.path = std::string(whole.substr(0, path_end));
  if (path_end < whole.size()) request.query = std::string(whole.substr(path_end + 1));
  request.authorization = HeaderValue(message, "Authorization");
  request.x_api_key = HeaderValue(message, "x-api-key");
  request.x_request_id = HeaderValue(message, "x-request-id");
  request.x_session = HeaderValue(message, "x-longshelf-session");
  return request;
}

void HttpConnection::ReleaseBody() { owner_.ReleaseBodyBytes(std::exchange(n_body_read_, 0)); }

void HttpConnection::OnRequestComplete() {
  ReleaseBody();
  read_timer_.cancel();
  HttpRequest request = TakeRequest();
  request.body = std::move(parser_->get().body());
  answering_ = true;
  // So that the client's end is noticed meanwhile.
  if (received_.size() < kReadChunkBytes) Read(Reading::kAhead);
  handler_.OnRequest(std::move(request), shared_from_this());
}

// ---- Answering ----

std::string HttpConnection::HeadOf(const HttpReply& reply, bool chunked, std::optional<size_t> length) const {
  std::string head =
      absl::StrCat("HTTP/1.1 ", reply.status, " ",
                   absl::string_view(ReasonPhrase(reply.status).data(), ReasonPhrase(reply.status).size()),
                   "\r\nServer: longshelf\r\nContent-Type: ", reply.content_type, "\r\n");
  for (const auto& [name, value] : reply.headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  if (chunked) absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  if (length) absl::StrAppend(&head, "Content-Length: ", *length, "\r\n");
  absl::StrAppend(&head, keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
  return head;
}

void HttpConnection::Refuse(int status, const std::string& why) {
  const bool has_header = parser_.has_value() && parser_->is_header_done();
  ReplyAndClose(
      handler_.TransportError(status, why, has_header ? HeaderValue(parser_->get(), "x-request-id") : std::string()));
}

void HttpConnection::ReplyAndClose(HttpReply reply) {
  ReleaseBody();
  keep_alive_ = false;
  answering_ = true;
  Reply(std::move(reply));
}

void HttpConnection::Reply(HttpReply reply) {
  if (closed_ || !answering_ || answer_ended_) return;
  if (owner_.draining()) keep_alive_ = false;
  answer_ended_ = true;
  const bool head_only = parser_->is_header_done() && parser_->get().method() == http::verb::head;
  std::string out = HeadOf(reply, false, reply.body.size());
  if (!head_only) out += reply.body;
  Send(out);
}

void HttpConnection::BeginStream(HttpReply head) {
  if (closed_ || !answering_) return;
  chunked_ = !http_1_0_;
  if (!chunked_ || owner_.draining()) keep_alive_ = false;
  Send(HeadOf(head, chunked_, std::nullopt));
}

void HttpConnection::Write(std::string_view data) {
  if (closed_ || answer_ended_ || data.empty()) return;
  const absl::string_view view(data.data(), data.size());
  chunked_ ? Send(absl::StrCat(absl::Hex(data.size()), "\r\n", view, "\r\n")) : Send(data);
}

void HttpConnection::End() {
  if (closed_ || answer_ended_) return;
  answer_ended_ = true;
  Send(chunked_ ? "0\r\n\r\n" : "");
}

void HttpConnection::EndAndClose() {
  keep_alive_ = false;
  End();
}

void HttpConnection::Send(std::string_view bytes) {
  if (closed_) return;
  pending_ += bytes;
  if (!write_in_flight_) WriteSome();
}

void HttpConnection::WriteSome() {
  if (written_ == writing_.size()) {
    writing_ = std::exchange(pending_, {});
    written_ = 0;
  }
  if (writing_.empty()) {
    if (answering_ && answer_ended_) OnAnswerSent();
    return;
  }
  write_in_flight_ = true;
  write_timer_.expires_after(absl::ToChronoNanoseconds(config_.write_timeout));
  write_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    if (!error && !self->closed_ && self->write_in_flight_) self->Abort();
  });
  stream_.async_write_some(
      asio::buffer(writing_.data() + written_, writing_.size() - written_),
      [self = shared_from_this()](ErrorCode error, size_t n) {
        self->write_in_flight_ = false;
        self->write_timer_.cancel();
        if (self->closed_) return;
        if (error) return self->Abort();
        self->written_ += n;
        self->WriteSome();
        if (!self->closed_ && self->observer_ != nullptr && self->unsent_bytes() <= kLowWaterBytes) {
          self->observer_->OnDrained();
        }
      });
}

void HttpConnection::OnAnswerSent() {
  answering_ = false;
  answer_ended_ = false;
  chunked_ = false;
  observer_ = nullptr;
  if (!keep_alive_ || owner_.draining()) return Linger();
  AwaitRequest();
}

// ---- Closing ----

// Lets the client read the answer: closing with unread input would reset the connection under it.
void HttpConnection::Linger() {
  reading_ = Reading::kNothing;
  ArmTimer(kLingerTimeout, &HttpConnection::Close);
  if (!stream_.is_tls()) return EndSending();
  stream_.AsyncGoodbye([self = shared_from_this()](ErrorCode) {
    if (!self->closed_) self->EndSending();
  });
}

void HttpConnection::EndSending() {
  ErrorCode ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  DiscardInput();
}

// Whatever it is, without a look at it.
void HttpConnection::DiscardInput() {
  stream_.socket().async_read_some(asio::buffer(read_chunk_), [self = shared_from_this()](ErrorCode error, size_t) {
    if (self->closed_) return;
    if (error) return self->Close();
    self->DiscardInput();
  });
}

void HttpConnection::CloseWhenIdle() {
  keep_alive_ = false;
  // A client that is sending its body is told what happens, like any other that comes now.
  const bool is_receiving = !received_.empty() || (parser_.has_value() && parser_->is_header_done());
  if (!answering_ && !is_receiving) Close();
}

void HttpConnection::Abort() {
  if (closed_) return;
  HttpExchangeObserver* observer = std::exchange(observer_, nullptr);
  Close();
  if (observer != nullptr) observer->OnClientGone();
}

void HttpConnection::Close() {
  if (std::exchange(closed_, true)) return;
  ReleaseBody();
  const auto self = shared_from_this();
  ErrorCode ignored;
  read_timer_.cancel();
  write_timer_.cancel();
  stream_.socket().close(ignored);
  owner_.OnConnectionClosed(*this);
}

}  // namespace longshelf::router
