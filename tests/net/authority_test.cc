#include "net/authority.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/clock.h"
#include "net/tls_context.h"

namespace longshelf::net {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class AuthorityTest : public ::testing::Test {
 protected:
  absl::StatusOr<CertifiedKey> Issue(Role role, std::vector<std::string> hosts) {
    return IssueCertificate(authority_, {role, std::move(hosts), absl::Hours(1)}, now_);
  }
  const absl::Time now_ = SystemClock().WallNow();
  const CertifiedKey authority_ = MakeAuthority("test", now_, absl::Hours(2)).value();
};

TEST_F(AuthorityTest, CertificatesNameTheirRoleAndHosts) {
  const auto pair = Issue(Role::kWorker, {"a.example", "*.b.example", "10.0.0.3", "::1"});
  ASSERT_TRUE(pair.ok()) << pair.status();
  const CertificateInfo info = *ReadCertificate(pair->certificate);
  EXPECT_THAT(info.uris, ElementsAre("longshelf://role/worker"));
  EXPECT_THAT(info.hosts, ElementsAre("a.example", "*.b.example", "10.0.0.3", "::1"));
  EXPECT_LT(info.not_before, now_);
  EXPECT_LE(absl::AbsDuration(info.not_after - (now_ + absl::Hours(1))), absl::Seconds(1));
  EXPECT_NE(info.serial, ReadCertificate(Issue(Role::kWorker, {})->certificate)->serial);
}

TEST_F(AuthorityTest, ItsCertificatesPassOurOwnCheck) {
  const CertifiedKey pair = *Issue(Role::kKvstore, {"localhost"});
  const auto info = CheckMaterial({pair.certificate, pair.key, authority_.certificate}, now_);
  EXPECT_TRUE(info.ok()) << info.status();
}

TEST_F(AuthorityTest, RefusesWhatIsNoHost) {
  for (const char* host : {"", "a b", "a,DNS:evil.example", "a\n", "-a", ".a", "a.", "a/b", "http://a", "*"}) {
    EXPECT_EQ(Issue(Role::kWorker, {host}).status().code(), absl::StatusCode::kInvalidArgument) << host;
  }
}

TEST_F(AuthorityTest, NeedsItsOwnKey) {
  const CertifiedKey other = *MakeAuthority("other", now_, absl::Hours(1));
  const auto pair = IssueCertificate({authority_.certificate, other.key}, {}, now_);
  EXPECT_EQ(pair.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Role, GoesToAUriAndBackAndNothingElseDoes) {
  for (const Role role : {Role::kRouter, Role::kWorker, Role::kKvstore, Role::kOperator, Role::kClient}) {
    EXPECT_EQ(RoleOfUri(RoleUri(role)), role);
  }
  for (const char* uri : {"", "longshelf://role/", "longshelf://role/workers", "longshelf://role/Worker", "worker",
                          "spiffe://role/worker", "xlongshelf://role/worker", "longshelf://role/worker/"}) {
    EXPECT_EQ(RoleOfUri(uri), std::nullopt) << uri;
  }
}

TEST(Role, SetsHoldWhatWasPutIn) {
  EXPECT_TRUE(kCallersOfKvstore.Has(Role::kKvstore));
  EXPECT_FALSE(kCallersOfKvstore.Has(Role::kClient));
  EXPECT_FALSE(kCallersOfWorker.Has(Role::kKvstore));
  EXPECT_FALSE(kCallersOfWorker.Has(Role::kWorker));
  EXPECT_EQ(kCallersOfWorker.ToString(), "router or operator");
  EXPECT_TRUE(RoleSet().empty());
}

TEST(ReadCertificate, RefusesWhatIsNone) {
  EXPECT_THAT(std::string(ReadCertificate("nonsense").status().message()), HasSubstr("PEM"));
  EXPECT_FALSE(ReadCertificate("").ok());
}

}  // namespace
}  // namespace longshelf::net
