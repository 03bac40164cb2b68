#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::cli {

// For `longshelf certs`: an authority, and a certificate with its key for every role, as files of one directory: ca.crt
// and ca.key, worker.crt and worker.key, and so on. Keys are readable by their owner only.
struct CertificatesRequest {
  std::string directory;
  // Names and addresses under which servers are called, besides those of this machine. None, and there are
  // certificates: those that they have.
  std::vector<std::string> hosts = {};
  absl::Duration valid_for = absl::Hours(24 * 365);
  absl::Duration authority_valid_for = absl::Hours(24 * 3650);
  bool renew = false;  // replace certificates that are there; the authority is never replaced
};

// What was written, line by line, for people. ALREADY_EXISTS: certificates that `renew` would replace; nothing was
// written. FAILED_PRECONDITION: the authority is expired or one of its files is missing. INVALID_ARGUMENT: a host that
// is none. UNAVAILABLE: the directory.
absl::StatusOr<std::vector<std::string>> MakeCertificates(const CertificatesRequest& request, absl::Time now);

}  // namespace longshelf::cli
