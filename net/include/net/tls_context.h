#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "net/certificate.h"

struct ssl_ctx_st;

// What OpenSSL needs for one side of TLS connections. TLS 1.2 at least, ALPN http/1.1.
namespace longshelf::net {

// In PEM form. `certificates`: the own one first, then those between it and its authority.
struct TlsMaterial {
  std::string certificates;
  std::string key;
  std::string authorities;
};

// Shared by all connections that were begun with it; safe from any thread.
using SslContext = std::shared_ptr<ssl_ctx_st>;

// INVALID_ARGUMENT: no certificate, no key, a key of another certificate, no authority where there is text for some.
// FAILED_PRECONDITION: not valid at `now`, before or behind.
absl::StatusOr<CertificateInfo> CheckMaterial(const TlsMaterial& material, absl::Time now);

enum class PeerCertificate {
  kNone,      // not asked for
  kAsked,     // may be missing; one that is there is checked
  kRequired,  // no connection without one that one of `authorities` has signed
};

// INVALID_ARGUMENT: as CheckMaterial says, or certificates of peers are wanted and no authority is named.
absl::StatusOr<SslContext> MakeServerContext(const TlsMaterial& material, PeerCertificate peer);

// Servers are believed whom one of `authorities` has signed; none there: those that the system trusts. `certificates`
// and `key` may be empty.
absl::StatusOr<SslContext> MakeClientContext(const TlsMaterial& material);

}  // namespace longshelf::net
