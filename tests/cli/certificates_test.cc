#include "cli/certificates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "common/clock.h"
#include "net/tls_context.h"
#include "test_authority.h"
#include "testing/fixtures.h"

namespace longshelf::cli {
namespace {

using net::ContentOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CertificatesTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<std::string>> Make(std::vector<std::string> hosts = {}, bool renew = false) {
    return MakeCertificates({.directory = directory_.string(), .hosts = std::move(hosts), .renew = renew}, now_);
  }
  net::CertificateInfo Info(const std::string& name) {
    return net::ReadCertificate(ContentOf(directory_ / (name + ".crt"))).value();
  }
  mode_t Mode(const std::string& name) {
    struct stat status = {};
    EXPECT_EQ(stat((directory_ / name).c_str(), &status), 0) << name;
    return status.st_mode & 0777;
  }

  const absl::Time now_ = SystemClock().WallNow();
  const std::filesystem::path directory_ = longshelf::testing::MakeTempDir("certs") / "new";
};

TEST_F(CertificatesTest, EveryRoleGetsAPairThatTheAuthorityHasSigned) {
  const auto lines = Make({"a.example", "10.0.0.3"});
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_THAT((*lines)[0], HasSubstr("a new authority"));
  for (const std::string name : {"router", "worker", "kvstore", "operator", "client"}) {
    EXPECT_THAT(Info(name).uris, ElementsAre("longshelf://role/" + name));
    EXPECT_TRUE(net::CheckMaterial({ContentOf(directory_ / (name + ".crt")), ContentOf(directory_ / (name + ".key")),
                                    ContentOf(directory_ / "ca.crt")},
                                   now_)
                    .ok());
    EXPECT_EQ(Mode(name + ".key"), 0600u);
  }
  EXPECT_EQ(Mode("ca.key"), 0600u);
  EXPECT_THAT(Info("worker").hosts, ElementsAre("localhost", "127.0.0.1", "::1", "a.example", "10.0.0.3"));
  EXPECT_THAT(Info("client").hosts, ElementsAre());
}

TEST_F(CertificatesTest, ReplacesNothingUnlessTold) {
  ASSERT_TRUE(Make({"a.example"}).ok());
  const std::string authority = ContentOf(directory_ / "ca.crt");
  const std::string serial = Info("worker").serial;
  EXPECT_EQ(Make().status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Info("worker").serial, serial);
  const auto lines = Make({}, /*renew=*/true);
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_THAT(*lines, Contains(HasSubstr("worker.key: replaced")));
  EXPECT_NE(Info("worker").serial, serial);
  EXPECT_EQ(ContentOf(directory_ / "ca.crt"), authority);
  EXPECT_THAT(Info("worker").hosts, Contains("a.example")) << "hosts are those of before";
  ASSERT_TRUE(Make({"b.example"}, /*renew=*/true).ok());
  EXPECT_THAT(Info("worker").hosts, ElementsAre("localhost", "127.0.0.1", "::1", "b.example"));
}

TEST_F(CertificatesTest, AWrongHostWritesNothing) {
  EXPECT_EQ(Make({"a b"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CertificatesTest, AnAuthorityWithoutItsKeyIsNotReplaced) {
  ASSERT_TRUE(Make().ok());
  std::filesystem::remove(directory_ / "ca.key");
  EXPECT_EQ(Make({}, /*renew=*/true).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CertificatesTest, NoCertificateOutlivesItsAuthority) {
  const CertificatesRequest request = {
      .directory = directory_.string(), .valid_for = absl::Hours(24 * 30), .authority_valid_for = absl::Hours(24 * 7)};
  ASSERT_TRUE(MakeCertificates(request, now_).ok());
  EXPECT_LE(Info("worker").not_after, Info("ca").not_after);
  EXPECT_EQ(MakeCertificates(request, now_ + absl::Hours(24 * 8)).status().code(), absl::StatusCode::kAlreadyExists);
  CertificatesRequest again = request;
  again.renew = true;
  const absl::Status late = MakeCertificates(again, now_ + absl::Hours(24 * 8)).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(late.message()), HasSubstr("has expired"));
}

}  // namespace
}  // namespace longshelf::cli
