#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "net/admin_server.h"
#include "test_authority.h"
#include "tls_peer.h"

namespace longshelf {
namespace {

using net::Role;
using net::TlsPeer;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class AdminTlsTest : public ::testing::Test {
 protected:
  void Start(const std::string& mode, AdminOptions options = {}) {
    options.tls = identity_;
    options.tls_mode = mode;
    auto server = AdminServer::Start(std::move(options), {[] { return true; },
                                                          [] {
                                                            return Readiness{true, "serving"};
                                                          },
                                                          [] { return std::string("longshelf_demo 1\n"); }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static std::string Request(const std::string& path) {
    return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
  }
  std::string Get(const std::string& path, const net::SslContext& context) {
    TlsPeer peer(server_->port(), context);
    peer.Send(Request(path));
    return peer.ReadToEnd();
  }
  std::string GetAs(const std::string& path, Role role) {
    return Get(path, authority_.Identity("caller", role)->client_context());
  }

  net::TestAuthority authority_;
  std::shared_ptr<net::TlsIdentity> identity_ = authority_.Identity("server", Role::kWorker);
  std::unique_ptr<AdminServer> server_;
};

TEST_F(AdminTlsTest, SpeaksHttpsWhenThereIsACertificate) {
  Start("auto");
  EXPECT_THAT(server_->url(), StartsWith("https://127.0.0.1:"));
  EXPECT_THAT(Get("/livez", authority_.CallerContext()), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/metrics", authority_.CallerContext()), HasSubstr("longshelf_demo 1\n"));
  EXPECT_EQ(Get("/livez", nullptr), "") << "plain HTTP was answered";
}

TEST_F(AdminTlsTest, AnswersSeveralRequestsOnOneConnection) {
  Start("on");
  TlsPeer peer(server_->port(), authority_.CallerContext());
  for (int i = 0; i < 3; ++i) {
    peer.Send("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    EXPECT_THAT(peer.ReadUntil("live\n"), StartsWith("HTTP/1.1 200"));
  }
}

TEST_F(AdminTlsTest, IsPlainWhenSwitchedOff) {
  Start("off");
  EXPECT_THAT(server_->url(), StartsWith("http://"));
  EXPECT_THAT(Get("/livez", nullptr), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminTlsTest, WithMutualTlsMetricsNeedAnOperatorAndProbesNeedNothing) {
  Start("mutual");
  EXPECT_THAT(Get("/livez", authority_.CallerContext()), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/metrics", authority_.CallerContext()), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(GetAs("/metrics", Role::kClient), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(GetAs("/metrics", Role::kRouter), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(GetAs("/metrics", Role::kOperator), StartsWith("HTTP/1.1 200"));
  net::TestAuthority stranger;
  const auto context = stranger.Identity("caller", Role::kOperator)->client_context();
  EXPECT_EQ(Get("/livez", context), "") << "a certificate that nobody of ours has signed";
}

TEST_F(AdminTlsTest, NeedsACertificateForTlsAndMutualTlsOrATokenBeyondLoopback) {
  const auto status = [&](const std::string& listen, const std::string& mode, bool with_identity) {
    AdminOptions options;
    options.listen = listen;
    options.tls_mode = mode;
    if (with_identity) options.tls = identity_;
    return AdminServer::Start(std::move(options), {}).status();
  };
  for (const char* mode : {"on", "mutual"}) {
    const absl::Status refused = status("127.0.0.1:0", mode, false);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("--tls-cert"));
  }
  EXPECT_EQ(status("0.0.0.0:0", "on", true).code(), absl::StatusCode::kFailedPrecondition) << "anybody could read";
  EXPECT_TRUE(status("0.0.0.0:0", "mutual", true).ok());
}

TEST_F(AdminTlsTest, WhoSaysNothingOrNonsenseHoldsAPlaceForALimitedTime) {
  AdminOptions options;
  options.connections_max = 1;
  options.request_timeout = absl::Milliseconds(300);
  Start("on", options);
  {
    const TlsPeer silent(server_->port());
    EXPECT_EQ(TlsPeer(server_->port()).ReadToEnd(), "") << "there is one place only";
  }
  TlsPeer nonsense(server_->port());
  nonsense.Send(std::string(2000, 'x'));
  nonsense.ReadToEnd();
  TlsPeer silent(server_->port());
  EXPECT_EQ(silent.ReadToEnd(), "") << "the end comes with the handshake's time";
  std::string answer;
  const SystemClock clock;
  const absl::Time patience = clock.Now() + absl::Seconds(10);
  while (answer.empty() && clock.Now() < patience) answer = Get("/livez", authority_.CallerContext());
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminTlsTest, ShowsTheNewCertificateToNewConnectionsAndKeepsTheOldOnes) {
  Start("on");
  TlsPeer before(server_->port(), authority_.CallerContext());
  const std::string first = identity_->certificate().serial;
  EXPECT_EQ(before.serial(), first);
  authority_.Write("server", Role::kWorker);
  net::AwaitAnother(*identity_, first);
  TlsPeer after(server_->port(), authority_.CallerContext());
  EXPECT_EQ(after.serial(), identity_->certificate().serial);
  before.Send(Request("/livez"));
  EXPECT_THAT(before.ReadToEnd(), StartsWith("HTTP/1.1 200"));
}

}  // namespace
}  // namespace longshelf
