#pragma once

#include <array>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/metrics.h"
#include "net/tls_context.h"

namespace longshelf::net {

// Paths of PEM files; all empty: no TLS.
struct TlsFiles {
  std::string certificate;
  std::string key;
  std::string authority;

  bool empty() const { return certificate.empty() && key.empty() && authority.empty(); }
};

// What is in those of the files that are named. NOT_FOUND: one cannot be read. INVALID_ARGUMENT: it is too large.
absl::StatusOr<TlsMaterial> ReadMaterial(const TlsFiles& files);

// Binds --tls-cert, --tls-key and --tls-ca, which belong together: who this process is to the other parts.
void AddTlsOptions(ConfigSpec& spec, TlsFiles* files);

// OK with none of the files, or with all that are `needed`. INVALID_ARGUMENT names the flags that are missing.
absl::Status CheckTlsFiles(const TlsFiles& files, const std::string& flag_prefix, bool needs_authority);

// A certificate with its key, and whom it believes: what every listener and client of one kind shares. Read again when
// the files change; what is wrong then is logged and the old ones stay in use, for connections that are there already
// in any case. A thread of its own looks at the files; everything may be asked from any thread.
class TlsIdentity {
 private:
  struct State;

 public:
  struct Options {
    std::string name = "internal";  // in log and metrics
    absl::Duration poll_interval = absl::Seconds(1);
    Metrics* metrics = nullptr;  // must outlive the identity
  };
  // Null when `files` are empty. INVALID_ARGUMENT, FAILED_PRECONDITION: what CheckMaterial says of them. NOT_FOUND: a
  // file cannot be read. The clock must outlive the identity.
  static absl::StatusOr<std::shared_ptr<TlsIdentity>> Load(const TlsFiles& files, const Clock& clock, Options options);
  static absl::StatusOr<std::shared_ptr<TlsIdentity>> Load(const TlsFiles& files, const Clock& clock,
                                                           Metrics* metrics) {
    return Load(files, clock, {.name = "internal", .metrics = metrics});
  }
  explicit TlsIdentity(std::unique_ptr<State> state);  // through Load
  ~TlsIdentity();

  // For the next connection. `peer` other than kNone only if there is an authority.
  SslContext server_context(PeerCertificate peer) const;
  SslContext client_context() const;
  CertificateInfo certificate() const;
  bool has_authority() const;

  // Paths under which a pair that belongs together can be read at any time, certificates and key in one file, and the
  // authorities ("" without). Only this process finds something there.
  std::string pair_path() const;
  std::string authority_path() const;

  // What a layer above makes of this identity once and uses as long as it lives.
  std::shared_ptr<void> Attachment(const std::function<std::shared_ptr<void>()>& make);

 private:
  std::unique_ptr<State> state_;
};

}  // namespace longshelf::net
