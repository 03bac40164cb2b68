#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <optional>
#include <string>
#include <utility>

#include "net/certificate.h"
#include "net/tls_context.h"

namespace longshelf::net {

// An accepted connection, with TLS or without: an AsyncReadStream and AsyncWriteStream of Asio's, so what reads and
// writes does not ask which. One read and one write may be under way at a time; their handlers keep it alive.
class Stream {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using executor_type = Socket::executor_type;
  using ErrorCode = boost::system::error_code;

  // Plain when `context` is null.
  Stream(Socket socket, const SslContext& context);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  executor_type get_executor() { return socket_.get_executor(); }
  Socket& socket() { return socket_; }
  bool is_tls() const { return tls_.has_value(); }

  // REQUIRES: is_tls(), and nothing else before its end. `handler`: void(ErrorCode).
  template <typename Handler>
  void AsyncHandshake(Handler handler) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::move(handler));
  }
  // REQUIRES: is_tls(). Says that nothing more is written, and waits for the peer to say so or to do something else.
  template <typename Handler>
  void AsyncGoodbye(Handler handler) {
    tls_->async_shutdown(std::move(handler));
  }

  template <typename Buffers, typename Handler>
  auto async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) return tls_->async_read_some(buffers, std::forward<Handler>(handler));
    return socket_.async_read_some(buffers, std::forward<Handler>(handler));
  }
  template <typename Buffers, typename Handler>
  auto async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) return tls_->async_write_some(buffers, std::forward<Handler>(handler));
    return socket_.async_write_some(buffers, std::forward<Handler>(handler));
  }

  // What the peer's certificate says he may be; nothing without one. After the handshake.
  RoleSet peer_roles();

 private:
  Socket socket_;
  std::optional<boost::asio::ssl::stream<Socket&>> tls_;
};

// In words for the log: what a handshake failed at; empty when the peer just went, as who looks whether we listen does.
std::string WhyHandshakeFailed(const boost::system::error_code& error);

}  // namespace longshelf::net
