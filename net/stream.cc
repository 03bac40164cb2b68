#include "net/stream.h"

#include <openssl/ssl.h>

#include "common/check.h"
#include "openssl_owners.h"

namespace longshelf::net {

Stream::Stream(Socket socket, const SslContext& context) : socket_(std::move(socket)) {
  if (context == nullptr) return;
  SSL* connection = SSL_new(context.get());
  LONGSHELF_CHECK(connection != nullptr);
  tls_.emplace(socket_, connection);
}

RoleSet Stream::peer_roles() {
  if (!tls_) return {};
  return RolesOf(SSL_get0_peer_certificate(tls_->native_handle()));
}

std::string WhyHandshakeFailed(const boost::system::error_code& error) {
  if (error == boost::asio::error::eof || error == boost::asio::ssl::error::stream_truncated ||
      error == boost::asio::error::connection_reset) {
    return "";
  }
  if (error.category() == boost::asio::error::get_ssl_category()) {
    const int reason = ERR_GET_REASON(static_cast<unsigned long>(error.value()));
    if (reason == SSL_R_HTTP_REQUEST) return "plain HTTP was sent to a port with TLS";
    if (reason == SSL_R_WRONG_VERSION_NUMBER) return "what was sent is not TLS";
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) return "the client has no certificate";
  }
  return error.message();
}

}  // namespace longshelf::net
