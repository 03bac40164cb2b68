// The tool's HTTP client with TLS, against a real admin port.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cli/http_client.h"
#include "net/admin_server.h"
#include "test_authority.h"

namespace longshelf::cli {
namespace {

using net::Role;
using ::testing::HasSubstr;

class HttpTlsTest : public ::testing::Test {
 protected:
  void Start(const std::string& mode, const std::vector<std::string>& hosts = {"localhost", "127.0.0.1"}) {
    AdminOptions options;
    options.tls = authority_.Identity("server", Role::kRouter, nullptr, hosts);
    options.tls_mode = mode;
    auto server = AdminServer::Start(options, {[] { return true; },
                                               [] {
                                                 return Readiness{true, ""};
                                               },
                                               [this] { return metrics_; }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  absl::StatusOr<HttpAnswer> Get(const net::TlsFiles& files, const std::string& target = "/livez",
                                 const std::string& host = "127.0.0.1") {
    HttpCall call;
    call.target = target;
    call.idle_timeout = absl::Seconds(20);
    call.tls = MakeCallContext(files).value();
    return CallHttp({.host = host, .port = server_->port(), .tls = true}, call);
  }
  static std::string Why(const absl::StatusOr<HttpAnswer>& answer) {
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable);
    return std::string(answer.status().message());
  }

  std::string metrics_ = "longshelf_demo 1\n";
  net::TestAuthority authority_;
  std::unique_ptr<AdminServer> server_;
};

TEST_F(HttpTlsTest, ReadsAnAnswerOfManyRecords) {
  metrics_ = std::string(3'000'000, 'm');
  Start("on");
  const auto answer = Get(authority_.files(), "/metrics", "localhost");
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, metrics_);
}

TEST_F(HttpTlsTest, BelievesNobodyElse) {
  Start("on", {"other.example", "10.0.0.1"});
  EXPECT_THAT(Why(Get(authority_.files())), HasSubstr("IP address mismatch"));
  EXPECT_THAT(Why(Get(authority_.files(), "/livez", "localhost")), HasSubstr("hostname mismatch"));
  Start("on");
  EXPECT_THAT(Why(Get(net::TestAuthority().files())), HasSubstr("its certificate is not believed"));
  EXPECT_THAT(Why(Get({})), HasSubstr("its certificate is not believed")) << "the system's authorities";
}

TEST_F(HttpTlsTest, SaysWhenTheServerDoesNotSpeakTls) {
  Start("off");
  EXPECT_THAT(Why(Get(authority_.files())), HasSubstr("cannot agree on TLS"));
}

TEST_F(HttpTlsTest, ShowsItsCertificateToWhoAsks) {
  Start("mutual");
  EXPECT_EQ(Get(authority_.files(), "/metrics")->status, 403);
  EXPECT_EQ(Get(authority_.Write("me", Role::kOperator), "/metrics")->status, 200);
}

TEST_F(HttpTlsTest, AnInterruptEndsTheHandshake) {
  Start("on");
  const int stop = eventfd(1, 0);
  HttpCall call;
  call.interrupt_fd = stop;
  call.tls = MakeCallContext(authority_.files()).value();
  const auto answer = CallHttp({.host = "127.0.0.1", .port = server_->port(), .tls = true}, call);
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kCancelled);
  close(stop);
}

TEST_F(HttpTlsTest, FilesThatAreNoneAreRefusedByName) {
  const absl::Status status = MakeCallContext({.certificate = "", .key = "", .authority = "/nowhere/ca"}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/ca"));
}

}  // namespace
}  // namespace longshelf::cli
