#include "connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/ids.h"
#include "response.h"

namespace longshelf::router {
namespace asio = boost::asio;

namespace {

constexpr size_t kReadChunkBytes = size_t{16} << 10;
constexpr size_t kLowWaterBytes = size_t{64} << 10;
// A client that is being refused may have to send all of its body before it looks at the answer.
constexpr absl::Duration kLingerSilence = absl::Seconds(2);
constexpr absl::Duration kLingerMax = absl::Seconds(30);

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

void HttpConnection::StartAndRefuse() {
  is_refused_ = true;
  Refuse({503, "too many connections are open: retry later"});
}

void HttpConnection::ArmTimer(absl::Duration timeout, void (HttpConnection::*on_timeout)()) {
  read_timer_.expires_after(absl::ToChronoNanoseconds(timeout));
  read_timer_.async_wait([self = shared_from_this(), on_timeout](ErrorCode error) {
    if (!error && !self->closed_) (self.get()->*on_timeout)();
  });
}

// ---- Reading ----

// No more of a head than is needed to see that it is too large.
size_t HttpConnection::ReadBytesMax() const {
  if (reading_ == Reading::kBody || reading_ == Reading::kNothing) return read_chunk_.size();
  return std::clamp<size_t>(kSizeLimits.header_bytes - std::min(received_.size(), kSizeLimits.header_bytes), 1,
                            read_chunk_.size());
}

// One read at a time: when one is under way, what it brings gets a new meaning.
void HttpConnection::Read(Reading reading) {
  reading_ = reading;
  if (std::exchange(read_in_flight_, true)) return;
  stream_.async_read_some(asio::buffer(read_chunk_.data(), ReadBytesMax()),
                          [self = shared_from_this()](ErrorCode error, size_t n) {
                            self->read_in_flight_ = false;
                            if (!self->closed_) self->OnRead(error, n);
                          });
}

void HttpConnection::OnRead(ErrorCode error, size_t n) {
  if (reading_ == Reading::kNothing || (reading_ == Reading::kBody && body_given_up_)) return;
  if (error) return reading_ == Reading::kAhead ? Abort() : Close();
  received_.append(read_chunk_.data(), n);
  last_read_at_ = asio::steady_timer::clock_type::now();
  // The client may send its next request early. No more is read before this one is answered, so only then its end can
  // be seen.
  if (reading_ == Reading::kHeader) return OnHeaderBytes();
  if (reading_ == Reading::kBody) return ReadBody();
}

void HttpConnection::AwaitRequest() {
  scanner_.Restart();
  head_ = {};
  has_head_ = false;
  head_is_timed_ = false;
  body_.reset();
  coding_ = ContentCoding::kIdentity;
  ArmTimer(config_.idle_timeout, &HttpConnection::Close);
  OnHeaderBytes();
}

void HttpConnection::OnHeaderBytes() {
  switch (scanner_.Scan(received_)) {
    case HeadScan::kIncomplete:
      break;
    case HeadScan::kTargetTooLong:
      return Refuse({414, absl::StrCat("the request's target is too long: its first line is larger than ",
                                       kSizeLimits.request_line_bytes, " bytes")});
    case HeadScan::kTooLarge:
      return Refuse({431, absl::StrCat("the request's headers are larger than ", kSizeLimits.header_bytes, " bytes")});
    case HeadScan::kMalformed:
      return Refuse({400, "the request's headers are malformed"});
    case HeadScan::kComplete:
      return OnHeaderComplete();
  }
  // Empty lines are no request yet: some clients send one behind a body.
  if (scanner_.begin() == received_.size()) {
    received_.clear();
    scanner_.Restart();
  }
  // The header's own deadline starts with its first byte.
  if (!received_.empty() && !std::exchange(head_is_timed_, true)) {
    ArmTimer(config_.header_timeout, &HttpConnection::Close);
  }
  Read(Reading::kHeader);
}

void HttpConnection::OnHeaderComplete() {
  const size_t begin = scanner_.begin();
  const size_t end = scanner_.end();
  has_head_ = true;
  if (const auto fault = ParseHead(std::string_view(received_).substr(begin, end - begin), head_)) {
    return Refuse(*fault);
  }
  received_.erase(0, end);
  keep_alive_ = head_.keep_alive && ++n_requests_ < config_.requests_per_connection_max;
  HttpRequest request = MakeRequest();
  std::optional<HttpReply> refusal;
  if (auto preflight = owner_.cors().Preflight(head_)) {
    refusal = HttpReply{204, "", "", *std::move(preflight)};
    const bool is_usable = IsUsableRequestId(request.x_request_id);
    refusal->headers.emplace_back("x-request-id", is_usable ? request.x_request_id : RequestId());
  } else {
    refusal = handler_.OnHeader(request);
  }
  if (refusal) {
    if (head_.has_body()) return ReplyAndClose(*std::move(refusal));
    answering_ = true;
    return Reply(*std::move(refusal));
  }
  if (!CheckBody(request)) return;
  if (head_.expects_continue && head_.has_body() && received_.empty()) Send("HTTP/1.1 100 Continue\r\n\r\n");
  last_read_at_ = asio::steady_timer::clock_type::now();
  body_deadline_ = last_read_at_ + absl::ToChronoNanoseconds(config_.body_timeout);
  OnBodyTimer();
  ReadBody();
}

// Before any of it is read.
bool HttpConnection::CheckBody(const HttpRequest& request) {
  if (head_.content_length.value_or(0) > config_.body_bytes_max) {
    Refuse({413, BodyTooLarge(config_.body_bytes_max)});
    return false;
  }
  const auto coding = ContentCodingOf(head_.fields);
  if (const auto* fault = std::get_if<HttpFault>(&coding)) {
    Refuse(*fault);
    return false;
  }
  if (head_.has_body()) coding_ = std::get<ContentCoding>(coding);
  std::string payer = handler_.PayerOf(request);
  if (payer.empty()) payer = request.peer;
  auto lease = owner_.bodies().Take(payer, BodyReader::LeaseBytes(head_));
  if (lease == nullptr) {
    Refuse({503, "too many request bodies are here at once: retry later"});
    return false;
  }
  body_.emplace(head_, config_.body_bytes_max, std::move(lease));
  return true;
}

// Looks now and then, not at every byte, so it may see a little late that nothing has come.
void HttpConnection::OnBodyTimer() {
  const auto now = asio::steady_timer::clock_type::now();
  const auto until = std::min(body_deadline_, last_read_at_ + absl::ToChronoNanoseconds(config_.body_idle_timeout));
  if (now < until) return ArmTimer(absl::FromChrono(until - now), &HttpConnection::OnBodyTimer);
  body_given_up_ = true;
  Refuse({408, until == body_deadline_
                   ? absl::StrCat("the request body was not complete after ",
                                  absl::FormatDuration(config_.body_timeout), ": send it faster, or less of it")
                   : absl::StrCat("nothing of the request body came for ",
                                  absl::FormatDuration(config_.body_idle_timeout), ": send the request again")});
}

void HttpConnection::ReadBody() {
  size_t n_used = 0;
  const BodyReader::State state = body_->Push(received_, n_used);
  received_.erase(0, n_used);
  if (state == BodyReader::State::kFault) return Refuse(body_->fault());
  if (state == BodyReader::State::kDone) return OnBodyComplete();
  Read(Reading::kBody);
}

void HttpConnection::OnBodyComplete() {
  read_timer_.cancel();
  answering_ = true;
  // So that the client's end is noticed meanwhile.
  if (received_.size() < kSizeLimits.header_bytes) Read(Reading::kAhead);
  if (coding_ != ContentCoding::kIdentity) return DecodeBody();
  Deliver(body_->TakeBody());
}

void HttpConnection::DecodeBody() {
  struct Work {
    std::string coded;
    std::shared_ptr<BodyBudget::Lease> lease;
    std::variant<std::string, HttpFault> result;
  };
  auto shared = std::make_shared<Work>();
  shared->coded = body_->TakeBody();
  shared->lease = body_->lease();
  const uint64_t n_coded = shared->coded.size();
  auto work = [shared, coding = coding_, n_coded, n_bytes_max = config_.body_bytes_max] {
    shared->result = DecodeContent(coding, shared->coded, n_bytes_max,
                                   [&](uint64_t n) { return shared->lease->Resize(n_coded + n); });
    shared->coded = {};
    if (const auto* text = std::get_if<std::string>(&shared->result)) shared->lease->Resize(text->capacity());
  };
  auto done = [self = shared_from_this(), shared] {
    if (self->closed_) return;
    if (const auto* fault = std::get_if<HttpFault>(&shared->result)) return self->Refuse(*fault);
    self->Deliver(std::get<std::string>(std::move(shared->result)));
  };
  if (!handler_.RunOffLoop(MakeRequest(), n_coded, std::move(work), std::move(done))) {
    Refuse({503, "too many requests are being prepared: retry later"});
  }
}

void HttpConnection::Deliver(std::string body) {
  HttpRequest request = MakeRequest();
  request.body = std::move(body);
  request.body_share = body_->lease();
  body_.reset();
  handler_.OnRequest(std::move(request), shared_from_this());
}

HttpRequest HttpConnection::MakeRequest() const {
  const auto field = [this](std::string_view name) { return std::string(FieldOf(head_.fields, name)); };
  HttpRequest request;
  request.method = head_.method;
  request.path = head_.target.path;
  request.query = head_.target.query;
  request.host = head_.target.authority.empty() ? field("Host") : head_.target.authority;
  request.is_absolute = !head_.target.authority.empty();
  request.peer = peer_.to_string();
  request.fields = head_.fields;
  request.authorization = field("Authorization");
  request.x_api_key = field("x-api-key");
  request.x_request_id = field("x-request-id");
  request.x_session = field("x-longshelf-session");
  return request;
}

// ---- Answering ----

std::string HttpConnection::HeadOf(const HttpReply& reply, bool chunked, std::optional<size_t> length) const {
  return ResponseHead(reply, owner_.cors().AnswerHeaders(head_.fields), owner_.DateNow(),
                      {length, chunked, keep_alive_, config_.idle_timeout});
}

void HttpConnection::Refuse(const HttpFault& fault) {
  HttpReply reply =
      handler_.TransportError(fault.status, fault.why, std::string(FieldOf(head_.fields, "x-request-id")));
  reply.headers.insert(reply.headers.end(), fault.headers.begin(), fault.headers.end());
  ReplyAndClose(std::move(reply));
}

void HttpConnection::ReplyAndClose(HttpReply reply) {
  body_.reset();
  keep_alive_ = false;
  answering_ = true;
  Reply(std::move(reply));
}

void HttpConnection::Reply(HttpReply reply) {
  if (closed_ || !answering_ || answer_ended_) return;
  if (owner_.draining()) keep_alive_ = false;
  answer_ended_ = true;
  std::string out = HeadOf(reply, false, reply.body.size());
  if (head_.method != "HEAD" && MayHaveBody(reply.status)) out += reply.body;
  Send(out);
}

void HttpConnection::BeginStream(HttpReply head) {
  if (closed_ || !answering_) return;
  chunked_ = head_.version_minor > 0;
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
  last_read_at_ = asio::steady_timer::clock_type::now();
  linger_deadline_ = last_read_at_ + absl::ToChronoNanoseconds(is_refused_ ? kLingerSilence : kLingerMax);
  ArmTimer(kLingerSilence, &HttpConnection::OnLingerTimer);
  if (!stream_.is_tls()) return EndSending();
  stream_.AsyncGoodbye([self = shared_from_this()](ErrorCode) {
    if (!self->closed_) self->EndSending();
  });
}

void HttpConnection::OnLingerTimer() {
  const auto now = asio::steady_timer::clock_type::now();
  const auto until = std::min(linger_deadline_, last_read_at_ + absl::ToChronoNanoseconds(kLingerSilence));
  if (now >= until || owner_.draining()) return Close();
  ArmTimer(absl::FromChrono(until - now), &HttpConnection::OnLingerTimer);
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
    self->last_read_at_ = asio::steady_timer::clock_type::now();
    self->DiscardInput();
  });
}

void HttpConnection::CloseWhenIdle() {
  keep_alive_ = false;
  // A client that is sending its body is told what happens, like any other that comes now.
  if (!answering_ && !has_head_ && received_.empty()) Close();
}

void HttpConnection::Abort() {
  if (closed_) return;
  HttpExchangeObserver* observer = std::exchange(observer_, nullptr);
  Close();
  if (observer != nullptr) observer->OnClientGone();
}

void HttpConnection::Close() {
  if (std::exchange(closed_, true)) return;
  body_.reset();
  const auto self = shared_from_this();
  ErrorCode ignored;
  read_timer_.cancel();
  write_timer_.cancel();
  stream_.socket().close(ignored);
  owner_.OnConnectionClosed(*this);
}

}  // namespace longshelf::router
