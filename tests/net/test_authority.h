#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "net/authority.h"
#include "net/tls_identity.h"

namespace longshelf::net {

// A time that no test sees the end of, and one that is over.
inline constexpr absl::Duration kLong = absl::Hours(24 * 100);
inline constexpr absl::Duration kOver = -absl::Hours(24);

// An authority of a test's own, and the files of those it signs for.
class TestAuthority {
 public:
  TestAuthority();
  // Files NAME.crt and NAME.key, replaced one by one as a careful person would; ca.crt beside them. For localhost and
  // 127.0.0.1, or `hosts`.
  TlsFiles Write(const std::string& name, Role role, absl::Duration valid_for = kLong,
                 std::vector<std::string> hosts = {"localhost", "127.0.0.1"});
  // Write and Load. Looks at its files every 5 ms.
  std::shared_ptr<TlsIdentity> Identity(const std::string& name, Role role, Metrics* metrics = nullptr,
                                        std::vector<std::string> hosts = {"localhost", "127.0.0.1"});
  std::shared_ptr<TlsIdentity> Load(const TlsFiles& files, Metrics* metrics = nullptr);
  // Whom this authority has signed for is believed by a caller without a certificate.
  SslContext CallerContext() const;

  const std::filesystem::path& directory() const { return directory_; }
  TlsFiles files() const { return {.certificate = "", .key = "", .authority = (directory_ / "ca.crt").string()}; }

 private:
  SystemClock clock_;
  std::filesystem::path directory_;
  CertifiedKey pair_;
};

// Puts `text` in the file's place, as a whole.
void ReplaceFile(const std::filesystem::path& path, const std::string& text);
std::string ContentOf(const std::filesystem::path& path);

// Waits until the identity shows another certificate than `serial`. EXPECTs that it comes.
void AwaitAnother(const TlsIdentity& identity, const std::string& serial);

}  // namespace longshelf::net
