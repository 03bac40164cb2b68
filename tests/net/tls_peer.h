#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "net/certificate.h"
#include "net/tls_context.h"

namespace longshelf::net {

// One blocking connection to a port of 127.0.0.1, with TLS or without. A read that would hang for 20 s fails.
class TlsPeer {
 public:
  // Plain when `context` is null; otherwise the handshake is tried at once.
  explicit TlsPeer(uint16_t port, const SslContext& context = nullptr);

  bool agreed() const { return agreed_; }  // on TLS, as far as this side knows
  // What a server showed; empty without TLS.
  std::string serial();
  void Send(std::string_view bytes);
  std::string ReadToEnd();
  // Until `end` was seen, or the connection has ended.
  std::string ReadUntil(std::string_view end);
  void Close() { socket_.close(); }

 private:
  size_t ReadSome(char* to, size_t n_max, boost::system::error_code& error);

  boost::asio::io_context context_;
  boost::asio::ip::tcp::socket socket_{context_};
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;
  bool agreed_ = false;
};

}  // namespace longshelf::net
