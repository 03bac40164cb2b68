#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "body_reader.h"
#include "content_coding.h"
#include "cors.h"
#include "head.h"
#include "net/stream.h"
#include "router/body_budget.h"
#include "router/http_server.h"

namespace longshelf::router {

// What a connection needs of its server.
class HttpConnectionOwner {
 public:
  virtual ~HttpConnectionOwner() = default;
  virtual void OnConnectionClosed(class HttpConnection& connection) = 0;
  virtual void OnHandshakeFailed(const HttpConnection& connection, boost::system::error_code why) = 0;
  virtual bool draining() const = 0;
  virtual BodyBudget& bodies() = 0;
  virtual const Cors& cors() const = 0;
  virtual const std::string& DateNow() = 0;
};

// One client connection, with TLS or without: reads a request, waits for its answer, and starts over. Everything
// happens on the loop; the pending operations keep it alive. One read and one write are in flight at most.
class HttpConnection final : public HttpExchange, public std::enable_shared_from_this<HttpConnection> {
 public:
  // Without TLS when `context` is null.
  HttpConnection(boost::asio::ip::tcp::socket socket, const net::SslContext& context, const HttpServerConfig& config,
                 HttpHandler& handler, HttpConnectionOwner& owner);
  void Start();
  // Instead of Start, without TLS: says 503 to whatever it wants.
  void StartAndRefuse();
  // Tells the observer and closes.
  void Abort();
  // Closes now if no request is being answered, else after the answer.
  void CloseWhenIdle();
  const boost::asio::ip::address& peer() const { return peer_; }
  bool is_refused() const { return is_refused_; }

  void SetObserver(HttpExchangeObserver* observer) override { observer_ = observer; }
  void Reply(HttpReply reply) override;
  void BeginStream(HttpReply head) override;
  void Write(std::string_view data) override;
  void End() override;
  void EndAndClose() override;
  size_t unsent_bytes() const override { return pending_.size() + writing_.size() - written_; }

 private:
  using ErrorCode = boost::system::error_code;
  using TimePoint = boost::asio::steady_timer::time_point;
  // What the bytes are that the read under way brings.
  enum class Reading : uint8_t {
    kHeader,
    kBody,
    kAhead,    // behind the request that is being answered: read to notice that the client is gone
    kNothing,  // of no use any more
  };

  void Read(Reading reading);
  size_t ReadBytesMax() const;
  void OnRead(ErrorCode error, size_t n);
  void AwaitRequest();
  void OnHeaderBytes();
  void OnHeaderComplete();
  bool CheckBody(const HttpRequest& request);
  void ReadBody();
  void OnBodyTimer();
  void OnBodyComplete();
  void DecodeBody();
  void Deliver(std::string body);
  void Refuse(const HttpFault& fault);
  void ReplyAndClose(HttpReply reply);
  HttpRequest MakeRequest() const;

  void Send(std::string_view bytes);
  void WriteSome();
  void OnAnswerSent();
  void Linger();
  void EndSending();
  void DiscardInput();
  void OnLingerTimer();
  void Close();
  void ArmTimer(absl::Duration timeout, void (HttpConnection::*on_timeout)());
  std::string HeadOf(const HttpReply& reply, bool chunked, std::optional<size_t> length) const;

  net::Stream stream_;
  const HttpServerConfig& config_;
  HttpHandler& handler_;
  HttpConnectionOwner& owner_;
  boost::asio::ip::address peer_;
  boost::asio::steady_timer read_timer_;
  boost::asio::steady_timer write_timer_;
  std::vector<char> read_chunk_;
  Reading reading_ = Reading::kHeader;
  bool read_in_flight_ = false;
  std::string received_;  // not yet consumed
  HeadScanner scanner_;
  RequestHead head_;  // as far as it is known
  bool has_head_ = false;
  bool head_is_timed_ = false;  // its deadline runs
  std::optional<BodyReader> body_;
  ContentCoding coding_ = ContentCoding::kIdentity;
  TimePoint body_deadline_;
  TimePoint last_read_at_;
  uint32_t n_requests_ = 0;
  HttpExchangeObserver* observer_ = nullptr;

  std::string pending_;  // to be written after writing_
  std::string writing_;  // owned by the write in flight
  size_t written_ = 0;   // of writing_
  bool write_in_flight_ = false;

  bool answering_ = false;     // a request was handed over and its answer is not complete
  bool answer_ended_ = false;  // nothing more will be written for it
  bool chunked_ = false;
  bool keep_alive_ = false;
  bool is_refused_ = false;     // without a look at what it wants
  bool body_given_up_ = false;  // it was too slow; what still comes is discarded
  TimePoint linger_deadline_;
  bool closed_ = false;
};

}  // namespace longshelf::router
