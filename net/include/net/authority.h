#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "net/certificate.h"

// A small certificate authority, for people who have none. ECDSA on P-256 throughout.
namespace longshelf::net {

// In PEM form.
struct CertifiedKey {
  std::string certificate;
  std::string key;
};

// Signs for itself, and nobody below it may sign for others.
absl::StatusOr<CertifiedKey> MakeAuthority(const std::string& name, absl::Time now, absl::Duration valid_for);

struct CertificateRequest {
  Role role = Role::kClient;
  std::vector<std::string> hosts;  // DNS names, with a leading "*." if need be, and IP addresses
  absl::Duration valid_for = absl::Hours(24 * 365);
};

// A new key and its certificate. Operators and clients may only call; the others also serve.
// INVALID_ARGUMENT: a host that is none, or an authority that is none.
absl::StatusOr<CertifiedKey> IssueCertificate(const CertifiedKey& authority, const CertificateRequest& request,
                                              absl::Time now);

}  // namespace longshelf::net
