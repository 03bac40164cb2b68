#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <boost/asio/post.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/metrics.h"
#include "router/http_server.h"
#include "router/limits.h"
#include "router_harness.h"

namespace longshelf::router::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class HttpDoor : public ::testing::Test {
 protected:
  // Sends raw bytes; the first line of the answer and whether the connection ended after it.
  std::string StatusLineThenClose(const std::string& bytes) {
    TestClient client(router_.service->http_port());
    client.Send(bytes);
    const std::string all = client.ReadUntil("no such marker: read to the end");
    return all.substr(0, all.find("\r\n"));
  }
  RouterHarness router_;
};

TEST_F(HttpDoor, SEC_13_RefusesAmbiguousRequestsAndCloses) {
  const std::string start = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n";
  const std::string smuggled = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
  for (const std::string& bytes : {
           start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
           start + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
           start + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde" + smuggled,
           start + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde" + smuggled,
           start + "Transfer-Encoding: gzip\r\n\r\n",
           start + "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
           start + "Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
           start + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
           start + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
           start + "X: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
           start + "X : a\r\n\r\n",
           std::string("POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: 0\n\n"),
           start + "Content-Length: 5\n\r\nabcde",
           std::string("GET /livez HTTP/1.1\r\n\r\n"),
           std::string("GET /livez\r\n\r\n"),
           std::string("\x16\x03\x01\x02\x00\x01\x00\n", 8),
       }) {
    EXPECT_THAT(StatusLineThenClose(bytes), StartsWith("HTTP/1.1 400")) << bytes;
  }
}

TEST_F(HttpDoor, SEC_27_BoundsHeadersAndBodies) {
  EXPECT_THAT(StatusLineThenClose("GET /livez HTTP/1.1\r\nHost: x\r\nX: " + std::string(20000, 'a') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(StatusLineThenClose(absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ",
                                               kSizeLimits.body_bytes + 1, "\r\n\r\n{")),
              StartsWith("HTTP/1.1 413"));
  std::string chunked = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string megabyte(size_t{1} << 20, ' ');
  for (int i = 0; i < 17; ++i) absl::StrAppend(&chunked, "100000\r\n", megabyte, "\r\n");
  EXPECT_THAT(StatusLineThenClose(chunked), StartsWith("HTTP/1.1 413"));
}

TEST_F(HttpDoor, WhatIsDoneWithASessionHasASmallBody) {
  const std::string large(kSizeLimits.session_body_bytes + 1, ' ');
  for (const char* action : {"park", "resume"}) {
    EXPECT_EQ(router_.Do("POST", absl::StrCat("/v1/sessions/s/", action), large).result_int(), 413u);
  }
}

TEST_F(HttpDoor, NamesTheLimitOfABodyAndTheWayOut) {
  const Reply reply = router_.Do("POST", "/v1/completions", std::string(kSizeLimits.body_bytes + 1, ' '));
  EXPECT_EQ(reply.result_int(), 413u);
  EXPECT_THAT(reply.body(), HasSubstr(absl::StrCat(kSizeLimits.body_bytes, " bytes")));
  EXPECT_THAT(reply.body(), HasSubstr("--body-max"));
}

TEST_F(HttpDoor, SEC_28_TakesABodyInVeryManySmallChunks) {
  std::string bytes = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 300000; ++i) bytes += "1\r\n \r\n";
  for (const char c : std::string(R"({"prompt":"x","max_tokens":1})"))
    absl::StrAppend(&bytes, "1\r\n", std::string(1, c), "\r\n");
  bytes += "0\r\n\r\n";
  TestClient client(router_.service->http_port());
  client.Send(bytes);
  EXPECT_EQ(client.Read().result_int(), 200u);
}

TEST_F(HttpDoor, KeepsConnectionsOpenAndAnswersPipelinedRequestsInOrder) {
  TestClient client(router_.service->http_port());
  client.Send(RequestText("GET", "/v1/models") + RequestText("POST", "/v1/chat/completions", ChatBody()) +
              RequestText("GET", "/livez"));
  EXPECT_THAT(client.Read().body(), HasSubstr("\"object\":\"list\""));
  EXPECT_THAT(client.Read().body(), HasSubstr("chat.completion"));
  EXPECT_EQ(client.Read().body(), "ok\n");
  client.Send(RequestText("GET", "/nothing"));
  EXPECT_EQ(client.Read().result_int(), 404u);
  client.Send(RequestText("GET", "/livez", "", {{"Connection", "close"}}));
  EXPECT_EQ(client.Read().result_int(), 200u);
  EXPECT_TRUE(client.IsClosed());
}

TEST_F(HttpDoor, ServesHttp10ByClosing) {
  TestClient client(router_.service->http_port());
  const std::string body = ChatBody(R"("stream":true)");
  client.Send(absl::StrCat("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  const std::string all = client.ReadUntil("no such marker");
  EXPECT_THAT(all, HasSubstr("Connection: close"));
  EXPECT_THAT(all, ::testing::EndsWith("data: [DONE]\n\n"));
}

TEST_F(HttpDoor, EchoesAUsableRequestIdAndReplacesOthers) {
  EXPECT_EQ(router_.Do("GET", "/livez", "", {{"x-request-id", "abc-1"}})["x-request-id"], "abc-1");
  EXPECT_NE(router_.Do("GET", "/livez", "", {{"x-request-id", "a b<script>"}})["x-request-id"], "a b<script>");
}

TEST_F(HttpDoor, WhatNeverBecameARequestHasAnIdToo) {
  TestClient client(router_.service->http_port());
  client.Send("GET /livez HTTP/1.1\r\nno colon\r\n\r\n");
  const Reply reply = client.Read();
  EXPECT_EQ(reply.result_int(), 400u);
  EXPECT_FALSE(reply["x-request-id"].empty());
  TestClient sender(router_.service->http_port());
  sender.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nx-request-id: abc-1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
  const Reply told = sender.Read();
  EXPECT_EQ(told.result_int(), 400u);
  EXPECT_EQ(told["x-request-id"], "abc-1");
}

TEST_F(HttpDoor, SaysWhichMethodsAPathTakesAndTakesHeadForGet) {
  const Reply refused = router_.Do("PUT", "/v1/sessions/s");
  EXPECT_EQ(refused.result_int(), 405u);
  EXPECT_EQ(refused["Allow"], "GET, HEAD, DELETE, POST, OPTIONS");
  EXPECT_EQ(router_.Do("OPTIONS", "/v1/completions")["Allow"], "POST, OPTIONS");
  TestClient client(router_.service->http_port());
  client.Send(RequestText("HEAD", "/v1/models/d%65mo", "", {{"Connection", "close"}}));
  const std::string all = client.ReadUntil("no such marker");
  EXPECT_THAT(all, ::testing::StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(all, ::testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(all, ::testing::Not(HasSubstr("Content-Length: 0")));
}

TEST_F(HttpDoor, AClientThatIsSendingItsBodyWhenTheRouterDrainsIsToldSo) {
  const std::string text = RequestText("POST", "/v1/chat/completions", ChatBody());
  const size_t half = text.size() - 20;
  TestClient client(router_.service->http_port());
  client.Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + text.substr(0, half));
  EXPECT_EQ(client.Read().result_int(), 200u) << "so the loop has begun to read what is behind";
  TestClient idle(router_.service->http_port());
  idle.Send(RequestText("GET", "/livez"));
  EXPECT_EQ(idle.Read().result_int(), 200u);
  router_.service->BeginDrain([] {});
  EXPECT_TRUE(idle.IsClosed());
  client.Send(text.substr(half));
  const Reply reply = client.Read();
  EXPECT_EQ(reply.result_int(), 503u);
  EXPECT_THAT(reply.body(), HasSubstr("draining"));
}

// Answers every body with its size.
class SizeHandler final : public HttpHandler {
 public:
  std::optional<HttpReply> OnHeader(const HttpRequest&) override { return std::nullopt; }
  void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    HttpReply reply;
    reply.body = absl::StrCat(request.body.size());
    exchange->Reply(std::move(reply));
  }
  HttpReply TransportError(int status, const std::string& why, const std::string&) override {
    return {status, "text/plain", why, {}};
  }
};

// Sends half a body and waits for what the server says of it.
Reply StandStill(HttpServer& server) {
  TestClient client(server.port());
  client.Send("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of it");
  Reply told = client.Read();
  client.Send("and now the rest");
  EXPECT_TRUE(client.IsClosed());
  return told;
}

TEST(HttpDoorTimes, ABodyThatStandsStillIsRefusedAndASlowOneIsNot) {
  boost::asio::io_context loop;
  Metrics registry("door_test");
  RouterMetrics metrics(registry);
  SizeHandler handler;
  HttpServerConfig config;
  config.listen = "127.0.0.1:0";
  config.tls = DoorIdentity();
  config.body_idle_timeout = absl::Milliseconds(1500);
  const auto server = HttpServer::Start(config, loop, handler, metrics);
  // What stands still there is the clock of what moves slowly here.
  config.body_idle_timeout = absl::Milliseconds(400);
  const auto clock = HttpServer::Start(config, loop, handler, metrics);
  config.body_idle_timeout = absl::Hours(1);
  config.body_timeout = absl::Milliseconds(300);
  const auto hasty = HttpServer::Start(config, loop, handler, metrics);
  ASSERT_TRUE(server.ok() && clock.ok() && hasty.ok());
  std::thread thread([&loop] { loop.run(); });

  const Reply told = StandStill(**clock);
  EXPECT_EQ(told.result_int(), 408u);
  EXPECT_THAT(told.body(), HasSubstr("nothing of the request body came for 400ms"));
  const Reply late = StandStill(**hasty);
  EXPECT_EQ(late.result_int(), 408u);
  EXPECT_THAT(late.body(), HasSubstr("not complete after 300ms"));

  // A few bytes at a time, for longer than it may stand still.
  constexpr size_t kPieces = 6;
  TestClient slow((*server)->port());
  slow.Send(absl::StrCat("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: ", 10 * kPieces, "\r\n\r\n"));
  for (size_t i = 0; i < kPieces; ++i) {
    if (i > 0) StandStill(**clock);
    slow.Send("ten bytes.");
  }
  EXPECT_EQ(slow.Read().body(), "60");

  boost::asio::post(loop, [&] {
    (*server)->CloseAll();
    (*clock)->CloseAll();
    (*hasty)->CloseAll();
  });
  thread.join();
}

TEST(HttpDoorTimes, BodiesBeingReceivedShareABudget) {
  boost::asio::io_context loop;
  Metrics registry("door_test");
  RouterMetrics metrics(registry);
  SizeHandler handler;
  HttpServerConfig config;
  config.listen = "127.0.0.1:0";
  config.tls = DoorIdentity();
  config.bodies_bytes_max = size_t{1} << 20;
  const auto server = HttpServer::Start(config, loop, handler, metrics);
  ASSERT_TRUE(server.ok());
  std::thread thread([&loop] { loop.run(); });
  const std::string most(size_t{900} << 10, 'x');
  for (int i = 0; i < 3; ++i) {  // what was refused, completed or left is given back
    TestClient all((*server)->port());
    all.Send(RequestText("POST", "/x", most + most));
    EXPECT_EQ(all.Read().result_int(), 503u);
    TestClient fits((*server)->port());
    fits.Send(RequestText("POST", "/x", most));
    EXPECT_EQ(fits.Read().body(), absl::StrCat(most.size()));
    // Leaves before the end, and waits until the server has seen that.
    TestClient leaves((*server)->port());
    leaves.Send(RequestText("POST", "/x", most).substr(0, most.size()));
    leaves.EndSending();
    EXPECT_TRUE(leaves.IsClosed()) << "half a request was answered";
  }
  boost::asio::post(loop, [&] { (*server)->CloseAll(); });
  thread.join();
}

TEST(HttpDoorCaps, ConnectionsBeyondTheCapAreToldToComeBackOrClosed) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.connections_max = 2;
  RouterHarness router(1, config);
  TestClient first(router.service->http_port());
  first.Send(RequestText("GET", "/livez"));
  EXPECT_EQ(first.Read().result_int(), 200u);
  TestClient second(router.service->http_port());
  second.Send(RequestText("GET", "/livez"));
  EXPECT_EQ(second.Read().result_int(), 200u);
  TestClient third(router.service->http_port());
  third.Send(RequestText("GET", "/livez"));
  if (DoorIdentity() == nullptr) {
    const Reply told = third.Read();
    EXPECT_EQ(told.result_int(), 503u);
    EXPECT_EQ(told["Retry-After"], "1");
  }
  EXPECT_TRUE(third.IsClosed());
  first.Send(RequestText("GET", "/livez"));
  EXPECT_EQ(first.Read().result_int(), 200u);
}

TEST(HttpDoorCaps, SEC_33_HalfOpenConnectionsAreInNobodysWayAndAreClosed) {
  if (DoorIdentity() != nullptr) GTEST_SKIP() << "2,000 handshakes show nothing more";
  constexpr size_t kHalfOpen = 2000;
  // Both ends of each are here.
  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_max < 2 * kHalfOpen + 200) GTEST_SKIP() << "this process may not open so many files";
  const rlimit before = files;
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  {
    RouterConfig config = RouterHarness::DefaultConfig();
    config.header_timeout = absl::Seconds(2);
    RouterHarness router(1, config);
    std::vector<std::unique_ptr<TestClient>> half_open;
    for (size_t i = 0; i < kHalfOpen; ++i) {
      half_open.push_back(std::make_unique<TestClient>(router.service->http_port()));
      half_open.back()->Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow");
    }
    EXPECT_EQ(router.Chat().result_int(), 200u);
    for (const auto& client : half_open) EXPECT_TRUE(client->IsClosed());
  }
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(RouterService, RefusesToListenBeyondLoopbackWithoutKeys) {
  SystemClock clock;
  for (const bool grpc : {false, true}) {
    RouterConfig config = RouterHarness::DefaultConfig();
    (grpc ? config.grpc_listen : config.listen) = "0.0.0.0:0";
    const auto refused = RouterService::Start(config, clock);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(ExitCodeOf(refused.status()), 78);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--insecure-public"));
  }
}

}  // namespace
}  // namespace longshelf::router::testing
