#include "net/tls_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>

#include "test_authority.h"

namespace longshelf::net {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Refusal(const TlsFiles& files, const Clock& clock) {
  const auto identity = TlsIdentity::Load(files, clock, nullptr);
  return identity.ok() ? "it was taken" : std::string(identity.status().message());
}

class TlsIdentityTest : public ::testing::Test {
 protected:
  SystemClock clock_;
  TestAuthority authority_;
};

TEST_F(TlsIdentityTest, IsNullWithoutFiles) {
  const auto identity = TlsIdentity::Load({}, clock_, nullptr);
  ASSERT_TRUE(identity.ok());
  EXPECT_EQ(*identity, nullptr);
}

TEST_F(TlsIdentityTest, RefusesWhatCannotBeUsedAndSaysWhy) {
  const TlsFiles good = authority_.Write("good", Role::kWorker);
  const TlsFiles other = authority_.Write("other", Role::kWorker);
  ReplaceFile(authority_.directory() / "text", "this is no PEM");
  const auto with = [&](const std::string& certificate, const std::string& key, const std::string& authority) {
    return Refusal({certificate, key, authority}, clock_);
  };
  EXPECT_THAT(with(good.certificate, good.key, good.authority), HasSubstr("it was taken"));
  EXPECT_THAT(with(good.certificate, other.key, good.authority), HasSubstr("the key is not the certificate's"));
  EXPECT_THAT(with(good.certificate, "/nowhere/key", good.authority), HasSubstr("cannot read /nowhere/key"));
  EXPECT_THAT(with("/tmp", good.key, good.authority), HasSubstr("cannot read /tmp"));
  EXPECT_THAT(with(good.key, good.key, good.authority), HasSubstr("no certificate"));
  EXPECT_THAT(with(good.certificate, good.certificate, good.authority), HasSubstr("no private key"));
  EXPECT_THAT(with(good.certificate, good.key, (authority_.directory() / "text").string()), HasSubstr("authority"));
}

TEST_F(TlsIdentityTest, RefusesACertificateBeforeAndBehindItsTime) {
  const TlsFiles expired = authority_.Write("expired", Role::kWorker, kOver);
  EXPECT_THAT(Refusal(expired, clock_), HasSubstr("has expired on"));
  EXPECT_THAT(Refusal(expired, clock_), HasSubstr("expired.crt"));
  ManualClock early;  // 1970
  EXPECT_THAT(Refusal(authority_.Write("good", Role::kWorker), early), HasSubstr("is not valid before"));
}

TEST_F(TlsIdentityTest, HalfASetNamesTheFlagsThatAreMissing) {
  EXPECT_TRUE(CheckTlsFiles({}, "tls", true).ok());
  EXPECT_TRUE(CheckTlsFiles({"c", "k", "a"}, "tls", true).ok());
  EXPECT_TRUE(CheckTlsFiles({"c", "k", ""}, "public-tls", false).ok());
  const auto missing = [](const TlsFiles& files) { return std::string(CheckTlsFiles(files, "tls", true).message()); };
  EXPECT_THAT(missing({"c", "", "a"}), HasSubstr("missing: --tls-key"));
  EXPECT_THAT(missing({"", "k", "a"}), HasSubstr("missing: --tls-cert"));
  EXPECT_THAT(missing({"c", "k", ""}), HasSubstr("missing: --tls-ca"));
  EXPECT_THAT(missing({"", "", "a"}), HasSubstr("missing: --tls-cert, --tls-key"));
  EXPECT_FALSE(CheckTlsFiles({"c", "", ""}, "public-tls", false).ok());
}

TEST_F(TlsIdentityTest, FollowsItsFiles) {
  Metrics metrics("test");
  const auto identity = authority_.Identity("it", Role::kWorker, &metrics);
  const std::string first = identity->certificate().serial;
  const SslContext before = identity->server_context(PeerCertificate::kRequired);
  authority_.Write("it", Role::kKvstore);
  AwaitAnother(*identity, first);
  EXPECT_THAT(identity->certificate().uris, ::testing::ElementsAre("longshelf://role/kvstore"));
  EXPECT_NE(identity->server_context(PeerCertificate::kRequired), before);
  const std::string pair = ContentOf(identity->pair_path());
  EXPECT_THAT(pair, HasSubstr(ContentOf(authority_.directory() / "it.key")));
  EXPECT_THAT(pair, HasSubstr(ContentOf(authority_.directory() / "it.crt")));
  EXPECT_EQ(ContentOf(identity->authority_path()), ContentOf(authority_.directory() / "ca.crt"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("longshelf_tls_reloads_total{identity=\"test\",result=\"ok\"} 1"));
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("expiry_timestamp_seconds{identity=\"test\"} 0\n")));
}

TEST_F(TlsIdentityTest, KeepsWhatItHasWhileTheFilesAreWrong) {
  Metrics metrics("test");
  const auto identity = authority_.Identity("it", Role::kWorker, &metrics);
  const std::string first = identity->certificate().serial;
  const std::string first_pair = ContentOf(identity->pair_path());
  // At least so many: files that are replaced one by one may be read in between.
  const auto await_refusals = [&](int n) {
    const std::string name = "longshelf_tls_reloads_total{identity=\"test\",result=\"refused\"} ";
    const absl::Time patience = clock_.Now() + absl::Seconds(20);
    for (int n_now = 0; n_now < n;) {
      const std::string all = metrics.Serialize();
      n_now = std::stoi(all.substr(all.find(name) + name.size()));
      ASSERT_LT(clock_.Now(), patience);
    }
  };
  const TlsFiles other = authority_.Write("other", Role::kWorker);
  ReplaceFile(authority_.directory() / "it.key", ContentOf(other.key));  // of another certificate
  await_refusals(1);
  std::filesystem::remove(authority_.directory() / "it.crt");
  await_refusals(2);
  authority_.Write("it", Role::kWorker, kOver);
  await_refusals(3);
  EXPECT_EQ(identity->certificate().serial, first);
  EXPECT_EQ(ContentOf(identity->pair_path()), first_pair);
  authority_.Write("it", Role::kWorker);
  AwaitAnother(*identity, first);
}

TEST_F(TlsIdentityTest, WarnsTwoWeeksBeforeItsEnd) {
  const auto log_of = [&](absl::Duration valid_for) {
    std::ostringstream out;
    const auto before = spdlog::default_logger();
    spdlog::set_default_logger(
        std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(out)));
    TlsIdentity::Load(authority_.Write("it", Role::kWorker, valid_for), clock_, nullptr).value().reset();
    spdlog::set_default_logger(before);
    return out.str();
  };
  EXPECT_THAT(log_of(absl::Hours(24 * 13)), HasSubstr("it.crt, expires on"));
  EXPECT_EQ(log_of(absl::Hours(24 * 15)), "");
}

TEST_F(TlsIdentityTest, AttachesOnce) {
  const auto identity = authority_.Identity("it", Role::kWorker);
  int n_made = 0;
  const auto make = [&n_made]() -> std::shared_ptr<void> { return std::make_shared<int>(++n_made); };
  EXPECT_EQ(identity->Attachment(make), identity->Attachment(make));
  EXPECT_EQ(n_made, 1);
}

}  // namespace
}  // namespace longshelf::net
