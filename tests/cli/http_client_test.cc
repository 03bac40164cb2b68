#include "cli/http_client.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longshelf::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Accepts one connection, keeps what the client sent up to a blank line, and plays a script.
class OneShotServer {
 public:
  explicit OneShotServer(std::string answer, bool keep_open = false) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    socklen_t size = sizeof address;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, answer = std::move(answer), keep_open] {
      const int peer = accept(fd_, nullptr, nullptr);
      char c = 0;
      while (request_.find("\r\n\r\n") == std::string::npos && recv(peer, &c, 1, 0) == 1) request_.push_back(c);
      send(peer, answer.data(), answer.size(), MSG_NOSIGNAL);
      while (keep_open && recv(peer, &c, 1, 0) > 0) {
      }
      close(peer);
    });
  }
  ~OneShotServer() {
    if (thread_.joinable()) thread_.join();
    close(fd_);
  }
  OneShotServer(const OneShotServer&) = delete;
  OneShotServer& operator=(const OneShotServer&) = delete;

  HttpUrl url() const { return {.host = "127.0.0.1", .port = port_, .path = "/base"}; }
  std::string Request() {
    thread_.join();
    return request_;
  }

 private:
  int fd_;
  uint16_t port_ = 0;
  std::string request_;
  std::thread thread_;
};

TEST(ParseHttpUrl, ReadsHostPortAndPath) {
  const HttpUrl url = *ParseHttpUrl("http://example.org:8080/a/b/");
  EXPECT_EQ(url.host, "example.org");
  EXPECT_EQ(url.port, 8080);
  EXPECT_EQ(url.path, "/a/b");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:81")->host, "::1");
  EXPECT_EQ(ParseHttpUrl("http://[::1]")->port, 80);
  EXPECT_EQ(ParseHttpUrl("http://h")->path, "");
  EXPECT_FALSE(ParseHttpUrl("http://h")->tls);
  EXPECT_TRUE(ParseHttpUrl("https://h")->tls);
  EXPECT_EQ(ParseHttpUrl("https://h")->port, 443);
}

TEST(ParseHttpUrl, RefusesEverythingElse) {
  for (const char* text : {"", "h:80", "ftp://h", "https://", "http://", "http://h:0", "http://h:99999", "http://h:x",
                           "http://h /", "http://h\r\nx: y"}) {
    EXPECT_FALSE(ParseHttpUrl(text).ok()) << text;
  }
}

TEST(CallHttp, SendsTheRequestAndCollectsTheAnswer) {
  OneShotServer server("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnone\n");
  HttpCall call;
  call.method = "POST";
  call.target = "/x";
  call.headers = {{"Authorization", "Bearer k"}};
  call.body = "{}";
  call.on_body = [](absl::string_view) { FAIL() << "an error's body is collected"; };
  const auto answer = CallHttp(server.url(), call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 404);
  EXPECT_EQ(answer->body, "none\n");
  EXPECT_THAT(server.Request(),
              ::testing::AllOf(::testing::StartsWith("POST /base/x HTTP/1.1\r\n"),
                               HasSubstr("Authorization: Bearer k\r\n"), HasSubstr("Content-Length: 2\r\n")));
}

TEST(CallHttp, HandsOnChunksAsTheyCome) {
  OneShotServer server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  std::string seen;
  HttpCall call;
  call.on_body = [&](absl::string_view piece) { absl::StrAppend(&seen, piece); };
  const auto answer = CallHttp(server.url(), call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(seen, "abcde");
}

TEST(CallHttp, TakesABodyThatEndsWithTheConnection) {
  OneShotServer server("HTTP/1.1 200 OK\r\n\r\nall of it");
  EXPECT_EQ(CallHttp(server.url(), {})->body, "all of it");
}

TEST(CallHttp, ReportsAnAnswerThatBreaksOff) {
  for (const char* text : {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
                           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "hello\r\n\r\n"}) {
    OneShotServer server(text);
    EXPECT_EQ(CallHttp(server.url(), {}).status().code(), absl::StatusCode::kUnavailable) << text;
  }
}

TEST(CallHttp, StopsWhenInterrupted) {
  OneShotServer server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", /*keep_open=*/true);
  const int interrupt = eventfd(0, 0);
  HttpCall call;
  call.interrupt_fd = interrupt;
  call.on_body = [&](absl::string_view) { eventfd_write(interrupt, 1); };
  EXPECT_EQ(CallHttp(server.url(), call).status().code(), absl::StatusCode::kCancelled);
  close(interrupt);
}

TEST(CallHttp, GivesUpOnSilence) {
  OneShotServer server("HTTP/1.1 200 OK\r\n", /*keep_open=*/true);
  HttpCall call;
  call.idle_timeout = absl::Milliseconds(20);
  EXPECT_EQ(CallHttp(server.url(), call).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(CallHttp, SaysWhenNobodyListens) {
  HttpUrl url;
  {
    OneShotServer server("");
    url = server.url();
    EXPECT_FALSE(CallHttp(url, {}).ok());
  }
  const auto answer = CallHttp(url, {});
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("cannot connect to 127.0.0.1:"));
}

}  // namespace
}  // namespace longshelf::cli
