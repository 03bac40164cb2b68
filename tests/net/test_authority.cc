#include "test_authority.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "testing/fixtures.h"

namespace longshelf::net {

TestAuthority::TestAuthority()
    : directory_(longshelf::testing::MakeTempDir("authority")),
      pair_(MakeAuthority("authority of a test", clock_.WallNow(), kLong).value()) {
  ReplaceFile(directory_ / "ca.crt", pair_.certificate);
}

TlsFiles TestAuthority::Write(const std::string& name, Role role, absl::Duration valid_for,
                              std::vector<std::string> hosts) {
  // What is over began before it ended.
  const absl::Time now = valid_for < absl::ZeroDuration() ? clock_.WallNow() + 2 * valid_for : clock_.WallNow();
  const auto pair = IssueCertificate(pair_, {role, std::move(hosts), absl::AbsDuration(valid_for)}, now);
  EXPECT_TRUE(pair.ok()) << pair.status();
  const TlsFiles files = {.certificate = (directory_ / (name + ".crt")).string(),
                          .key = (directory_ / (name + ".key")).string(),
                          .authority = (directory_ / "ca.crt").string()};
  ReplaceFile(files.key, pair->key);
  ReplaceFile(files.certificate, pair->certificate);
  return files;
}

std::shared_ptr<TlsIdentity> TestAuthority::Identity(const std::string& name, Role role, Metrics* metrics,
                                                     std::vector<std::string> hosts) {
  return Load(Write(name, role, kLong, std::move(hosts)), metrics);
}

std::shared_ptr<TlsIdentity> TestAuthority::Load(const TlsFiles& files, Metrics* metrics) {
  static const SystemClock clock;  // servers and clients of a test may outlive its authority
  auto identity =
      TlsIdentity::Load(files, clock, {.name = "test", .poll_interval = absl::Milliseconds(5), .metrics = metrics});
  EXPECT_TRUE(identity.ok()) << identity.status();
  return identity.ok() ? *identity : nullptr;
}

SslContext TestAuthority::CallerContext() const {
  return MakeClientContext({.certificates = "", .key = "", .authorities = pair_.certificate}).value();
}

void ReplaceFile(const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path draft = path.string() + ".new";
  std::ofstream(draft, std::ios::binary) << text;
  std::filesystem::rename(draft, path);
}

std::string ContentOf(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void AwaitAnother(const TlsIdentity& identity, const std::string& serial) {
  const SystemClock clock;
  const absl::Time patience = clock.Now() + absl::Seconds(20);
  while (identity.certificate().serial == serial) {
    ASSERT_LT(clock.Now(), patience) << "the changed files were not read";
    std::this_thread::yield();
  }
}

}  // namespace longshelf::net
