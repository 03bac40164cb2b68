#include "net/admin_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longshelf {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Client {
 public:
  explicit Client(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Send(const std::string& text) { send(fd_, text.data(), text.size(), MSG_NOSIGNAL); }
  std::string ReadToEnd() {
    std::string out;
    char piece[4096];
    for (ssize_t n = 0; (n = recv(fd_, piece, sizeof piece, 0)) > 0;) out.append(piece, static_cast<size_t>(n));
    return out;
  }
  // Reads until `end` has been seen.
  std::string ReadUntil(const std::string& end) {
    std::string out;
    char c = 0;
    while (out.find(end) == std::string::npos && recv(fd_, &c, 1, 0) == 1) out.push_back(c);
    return out;
  }

 private:
  int fd_;
};

class AdminServerTest : public ::testing::Test {
 protected:
  void Start(AdminOptions options) {
    auto server = AdminServer::Start(std::move(options), {[this] { return live_.load(); },
                                                          [this] {
                                                            return Readiness{ready_.load(), "loading 40 %"};
                                                          },
                                                          [] { return std::string("longshelf_demo 1\n"); }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Exchange(const std::string& request) {
    Client client(server_->port());
    client.Send(request);
    return client.ReadToEnd();
  }
  std::string Get(const std::string& path, const std::string& headers = "Host: 127.0.0.1\r\n") {
    return Exchange(absl::StrCat("GET ", path, " HTTP/1.1\r\n", headers, "Connection: close\r\n\r\n"));
  }

  std::atomic<bool> live_ = true;
  std::atomic<bool> ready_ = false;
  std::unique_ptr<AdminServer> server_;
};

TEST_F(AdminServerTest, AnswersProbesFromItsCallbacks) {
  Start({});
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/healthz"), HasSubstr("not ready: loading 40 %"));
  live_ = false;
  ready_ = true;
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, ServesMetrics) {
  Start({});
  EXPECT_THAT(Get("/metrics"), HasSubstr("\r\n\r\nlongshelf_demo 1\n"));
  EXPECT_THAT(Exchange("HEAD /metrics HTTP/1.0\r\nHost: localhost:1\r\n\r\n"), Not(HasSubstr("longshelf_demo")));
}

TEST_F(AdminServerTest, AnswersSeveralRequestsOnOneConnection) {
  Start({});
  Client client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.Send("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    EXPECT_THAT(client.ReadUntil("live\n"), StartsWith("HTTP/1.1 200"));
  }
}

TEST_F(AdminServerTest, RefusesOtherPathsAndMethods) {
  Start({});
  for (const char* path : {"/", "/metrics/", "//metrics", "/metrics?x", "/../metrics", "/%6detrics", "*"}) {
    EXPECT_THAT(Get(path), StartsWith("HTTP/1.1 404")) << path;
  }
  EXPECT_THAT(Exchange("DELETE /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 405"));
}

TEST_F(AdminServerTest, RefusesHugeHeadersBodiesAndNonsense) {
  Start({});
  EXPECT_THAT(Get("/livez", absl::StrCat("Host: 127.0.0.1\r\nX: ", std::string(9000, 'x'), "\r\n")),
              StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(Exchange("POST /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhello"),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Exchange("hello\r\n\r\n"), StartsWith("HTTP/1.1 400"));
}

TEST_F(AdminServerTest, DropsAConnectionThatNeverFinishesItsRequest) {
  AdminOptions options;
  options.request_timeout = absl::Milliseconds(20);
  Start(options);
  EXPECT_EQ(Exchange("GET /livez HTTP/1.1\r\nHo"), "");
}

TEST_F(AdminServerTest, ClosesConnectionsBeyondItsCap) {
  AdminOptions options;
  options.connections_max = 1;
  Start(options);
  Client first(server_->port());
  first.Send("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  first.ReadUntil("live\n");
  EXPECT_EQ(Client(server_->port()).ReadToEnd(), "");
}

TEST_F(AdminServerTest, SEC_07_RefusesWebPagesAndReboundNamesOnLoopback) {
  Start({});
  EXPECT_THAT(Get("/metrics", "Host: evil.example\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Get("/metrics", "Host: 127.0.0.1.evil.example\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Get("/metrics", "Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Get("/metrics", "Host: [::1]:9100\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, AsksForTheTokenForEverythingButProbes) {
  AdminOptions options;
  options.token = "0123456789abcdef";
  Start(options);
  EXPECT_THAT(Get("/metrics"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(Get("/unknown"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(Get("/metrics", "Host: x\r\nAuthorization: Bearer 0123456789abcdeX\r\n"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(Get("/metrics", "Host: x\r\nAuthorization: Bearer 0123456789abcdef\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, OpensToTheNetworkOnlyWithATokenOrWhenTold) {
  AdminOptions options;
  for (const char* listen : {"0.0.0.0:0", "[::]:0"}) {
    options.listen = listen;
    const auto refused = AdminServer::Start(options, {});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition) << listen;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--insecure-internal"));
  }
  options.listen = "0.0.0.0:0";
  options.insecure_internal = true;
  Start(options);
  EXPECT_THAT(Get("/livez", "Host: worker-0.example\r\n"), StartsWith("HTTP/1.1 200"));
  options.insecure_internal = false;
  options.token = "0123456789abcdef";
  Start(options);
}

TEST_F(AdminServerTest, ExplainsAnAddressItCannotUse) {
  for (const char* listen : {"", "localhost", "127.0.0.1:99999", "127.0.0.1:", "example.org:80"}) {
    AdminOptions options;
    options.listen = listen;
    EXPECT_EQ(AdminServer::Start(options, {}).status().code(), absl::StatusCode::kInvalidArgument) << listen;
  }
  Start({});
  AdminOptions taken;
  taken.listen = absl::StrCat("127.0.0.1:", server_->port());
  EXPECT_EQ(AdminServer::Start(taken, {}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_->url(), absl::StrCat("http://127.0.0.1:", server_->port()));
}

}  // namespace
}  // namespace longshelf
