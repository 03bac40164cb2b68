#include "tls_peer.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <memory>

namespace longshelf::net {

using boost::asio::ip::tcp;

TlsPeer::TlsPeer(uint16_t port, const SslContext& context) {
  boost::system::error_code error;
  socket_.connect(tcp::endpoint(boost::asio::ip::address_v4::loopback(), port), error);
  const timeval patience{20, 0};
  setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (context == nullptr || error) return;
  tls_.emplace(socket_, SSL_new(context.get()));
  tls_->handshake(boost::asio::ssl::stream_base::client, error);
  agreed_ = !error;
}

std::string TlsPeer::serial() {
  if (!tls_) return "";
  const X509* certificate = SSL_get0_peer_certificate(tls_->native_handle());
  if (certificate == nullptr) return "";
  const std::unique_ptr<BIO, decltype(&BIO_free)> text(BIO_new(BIO_s_mem()), BIO_free);
  PEM_write_bio_X509(text.get(), certificate);
  char* bytes = nullptr;
  const long n = BIO_get_mem_data(text.get(), &bytes);
  return ReadCertificate({bytes, static_cast<size_t>(n)})->serial;
}

void TlsPeer::Send(std::string_view bytes) {
  boost::system::error_code ignored;  // a server may refuse before it has read everything
  const boost::asio::const_buffer buffer(bytes.data(), bytes.size());
  tls_ ? boost::asio::write(*tls_, buffer, ignored) : boost::asio::write(socket_, buffer, ignored);
}

size_t TlsPeer::ReadSome(char* to, size_t n_max, boost::system::error_code& error) {
  const boost::asio::mutable_buffer buffer(to, n_max);
  return tls_ ? tls_->read_some(buffer, error) : socket_.read_some(buffer, error);
}

std::string TlsPeer::ReadToEnd() { return ReadUntil("no such text"); }

std::string TlsPeer::ReadUntil(std::string_view end) {
  std::string out;
  char piece[4096];
  boost::system::error_code error;
  while (out.find(end) == std::string::npos && !error) out.append(piece, ReadSome(piece, sizeof piece, error));
  return out;
}

}  // namespace longshelf::net
