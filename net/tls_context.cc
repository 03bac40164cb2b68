#include "net/tls_context.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "openssl_owners.h"

namespace longshelf::net {
namespace {

constexpr std::array<unsigned char, 9> kAlpnHttp1 = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

absl::Status Failed(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", TakeOpensslError()));
}

// A key file must not make the program ask for a password.
int NoPassword(char*, int, int, void*) { return 0; }

absl::StatusOr<Owned<EVP_PKEY>> ReadKey(const std::string& pem) {
  Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(ReaderOf(pem).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) return Failed("key: no private key in PEM form, without a password, in it");
  return key;
}

absl::StatusOr<std::vector<Owned<X509>>> ReadCertificates(const std::string& pem, const char* what) {
  const Owned<BIO> reader = ReaderOf(pem);
  std::vector<Owned<X509>> out;
  while (X509* certificate = PEM_read_bio_X509(reader.get(), nullptr, nullptr, nullptr)) out.emplace_back(certificate);
  const unsigned long end = ERR_peek_last_error();
  if (out.empty() || ERR_GET_REASON(end) != PEM_R_NO_START_LINE) return Failed(what);
  ERR_clear_error();
  return out;
}

std::string DateOf(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M UTC", time, absl::UTCTimeZone()); }

absl::StatusOr<SslContext> NewContext(const SSL_METHOD* method) {
  SslContext context(SSL_CTX_new(method), SSL_CTX_free);
  if (context == nullptr) return Failed("TLS");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  // An end of the stream without a goodbye is for the layer above to judge: HTTP knows where an answer ends.
  SSL_CTX_set_options(context.get(), SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  return context;
}

absl::Status UseIdentity(SSL_CTX* context, const TlsMaterial& material) {
  ASSIGN_OR_RETURN(const auto chain, ReadCertificates(material.certificates, "certificate"));
  ASSIGN_OR_RETURN(const Owned<EVP_PKEY> key, ReadKey(material.key));
  if (SSL_CTX_use_certificate(context, chain.front().get()) != 1) return Failed("certificate");
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) return Failed("certificate");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    return Failed("the key is not the certificate's");
  }
  return absl::OkStatus();
}

absl::Status UseAuthorities(SSL_CTX* context, const std::string& pem, bool name_them) {
  ASSIGN_OR_RETURN(const auto authorities, ReadCertificates(pem, "authority"));
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  for (const auto& authority : authorities) {
    if (X509_STORE_add_cert(store, authority.get()) != 1) return Failed("authority");
    if (name_them && SSL_CTX_add_client_CA(context, authority.get()) != 1) return Failed("authority");
  }
  return absl::OkStatus();
}

// Whoever offers protocols, and not ours, is told so in the handshake.
int ChooseProtocol(SSL*, const unsigned char** out, unsigned char* out_bytes, const unsigned char* offered,
                   unsigned n_offered, void*) {
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_bytes, kAlpnHttp1.data(), kAlpnHttp1.size(), offered, n_offered) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

absl::StatusOr<CertificateInfo> CheckMaterial(const TlsMaterial& material, absl::Time now) {
  ASSIGN_OR_RETURN(CertificateInfo info, ReadCertificate(material.certificates));
  ASSIGN_OR_RETURN(const SslContext context, NewContext(TLS_method()));
  RETURN_IF_ERROR(UseIdentity(context.get(), material));
  if (!material.authorities.empty()) RETURN_IF_ERROR(UseAuthorities(context.get(), material.authorities, false));
  if (now < info.not_before) {
    return absl::FailedPreconditionError(absl::StrCat("the certificate is not valid before ", DateOf(info.not_before)));
  }
  if (now >= info.not_after) {
    return absl::FailedPreconditionError(absl::StrCat("the certificate has expired on ", DateOf(info.not_after)));
  }
  return info;
}

absl::StatusOr<SslContext> MakeServerContext(const TlsMaterial& material, PeerCertificate peer) {
  ASSIGN_OR_RETURN(SslContext context, NewContext(TLS_server_method()));
  RETURN_IF_ERROR(UseIdentity(context.get(), material));
  SSL_CTX_set_alpn_select_cb(context.get(), ChooseProtocol, nullptr);
  constexpr unsigned char kSessionName[] = "longshelf";
  SSL_CTX_set_session_id_context(context.get(), kSessionName, sizeof kSessionName);
  if (peer == PeerCertificate::kNone) return context;
  RETURN_IF_ERROR(UseAuthorities(context.get(), material.authorities, true));
  // A session that is taken up again would bring a certificate that nobody looks at again.
  SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  const int must = peer == PeerCertificate::kRequired ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0;
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | must, nullptr);
  return context;
}

absl::StatusOr<SslContext> MakeClientContext(const TlsMaterial& material) {
  ASSIGN_OR_RETURN(SslContext context, NewContext(TLS_client_method()));
  if (!material.certificates.empty()) RETURN_IF_ERROR(UseIdentity(context.get(), material));
  if (!material.authorities.empty()) {
    RETURN_IF_ERROR(UseAuthorities(context.get(), material.authorities, false));
  } else if (SSL_CTX_set_default_verify_paths(context.get()) != 1) {
    return Failed("the system's authorities");
  }
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  // Unlike most of OpenSSL, 0 is success.
  if (SSL_CTX_set_alpn_protos(context.get(), kAlpnHttp1.data(), kAlpnHttp1.size()) != 0) return Failed("ALPN");
  return context;
}

}  // namespace longshelf::net
