#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/stream.h"
#include "router/http_server.h"

namespace longshelf::router {

// What a connection needs of its server.
class HttpConnectionOwner {
 public:
  virtual ~HttpConnectionOwner() = default;
  virtual void OnConnectionClosed(class HttpConnection& connection) = 0;
  virtual void OnHandshakeFailed(const HttpConnection& connection, boost::system::error_code why) = 0;
  virtual bool draining() const = 0;
  // Of all bodies that are being received; false: no room for `n` more.
  virtual bool HoldBodyBytes(size_t n) = 0;
  virtual void ReleaseBodyBytes(size_t n) = 0;
};

// One client connection, with TLS or without: reads a request, waits for its answer, and starts over. Everything
// happens on the loop; the pending operations keep it alive. One read and one write are in flight at most.
class HttpConnection final : public HttpExchange, public std::enable_shared_from_this<HttpConnection> {
 public:
  // Without TLS when `context` is null.
  HttpConnection(boost::asio::ip::tcp::socket socket, const net::SslContext& context, const HttpServerConfig& config,
                 HttpHandler& handler, HttpConnectionOwner& owner);
  void Start();
  // Tells the observer and closes.
  void Abort();
  // Closes now if no request is being answered, else after the answer.
  void CloseWhenIdle();
  const boost::asio::ip::address& peer() const { return peer_; }

  void SetObserver(HttpExchangeObserver* observer) override { observer_ = observer; }
  void Reply(HttpReply reply) override;
  void BeginStream(HttpReply head) override;
  void Write(std::string_view data) override;
  void End() override;
  void EndAndClose() override;
  size_t unsent_bytes() const override { return pending_.size() + writing_.size() - written_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using ErrorCode = boost::system::error_code;
  // What the bytes are that the read under way brings.
  enum class Reading : uint8_t {
    kHeader,
    kBody,
    kAhead,    // behind the request that is being answered: read to notice that the client is gone
    kNothing,  // of no use any more
  };

  void Read(Reading reading);
  void OnRead(ErrorCode error, size_t n);
  void AwaitRequest();
  void OnBytesForHeader(std::string_view bytes);
  void OnBytesForBody(std::string_view bytes);
  void OnHeaderBytes();
  void OnHeaderComplete(size_t n_header_bytes);
  void ReadBody();
  void AllowMoreBody();
  void ReleaseBody();
  void OnBodyTimeout();
  void OnRequestComplete();
  void Refuse(int status, const std::string& why);
  void ReplyAndClose(HttpReply reply);
  HttpRequest TakeRequest();

  void Send(std::string_view bytes);
  void WriteSome();
  void OnAnswerSent();
  void Linger();
  void EndSending();
  void DiscardInput();
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
  std::string received_;    // not yet consumed
  size_t n_body_read_ = 0;  // held with the owner
  std::optional<Parser> parser_;
  HttpExchangeObserver* observer_ = nullptr;

  std::string pending_;  // to be written after writing_
  std::string writing_;  // owned by the write in flight
  size_t written_ = 0;   // of writing_
  bool write_in_flight_ = false;

  bool answering_ = false;     // a request was handed over and its answer is not complete
  bool answer_ended_ = false;  // nothing more will be written for it
  bool chunked_ = false;
  bool keep_alive_ = false;
  bool http_1_0_ = false;
  bool body_given_up_ = false;  // it was too slow; what still comes is discarded
  bool closed_ = false;
};

}  // namespace longshelf::router
