// The doors with TLS: what is not so without it. That the rest is the same, the tests beside this one show.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "longshelf/v1/inference.grpc.pb.h"
#include "proto/credentials.h"
#include "router/http_server.h"
#include "router/worker_client.h"
#include "router_harness.h"
#include "test_authority.h"
#include "tls_peer.h"

namespace longshelf::router::testing {
namespace {

using net::Role;
using net::TlsPeer;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class HttpTls : public ::testing::Test {
 protected:
  RouterConfig Config(bool asks_clients = false) {
    RouterConfig config = RouterHarness::DefaultConfig();
    config.public_tls = authority_.Write("door", Role::kRouter);
    if (!asks_clients) config.public_tls.authority.clear();
    return config;
  }
  static std::string Ask(RouterHarness& router, const net::SslContext& context, const std::string& request) {
    TlsPeer peer(router.service->http_port(), context);
    peer.Send(request);
    return peer.ReadToEnd();
  }
  static std::string LivezOnce() { return RequestText("GET", "/livez", "", {{"Connection", "close"}}); }
  // The last stop of a wait: a counter of the router's has this value.
  static void AwaitMetric(const RouterHarness& router, const std::string& line) {
    const absl::Time patience = router.clock.Now() + absl::Seconds(20);
    while (router.Metrics().find("\n" + line + "\n") == std::string::npos) {
      ASSERT_LT(router.clock.Now(), patience) << line;
    }
  }
  // gRPC over TLS to the public door.
  static grpc::Status Count(RouterHarness& router, const std::string& authority, const net::TlsFiles& caller) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = net::ContentOf(authority);
    if (!caller.empty()) {
      options.pem_cert_chain = net::ContentOf(caller.certificate);
      options.pem_private_key = net::ContentOf(caller.key);
    }
    const auto stub = v1::Inference::NewStub(
        grpc::CreateChannel(absl::StrCat("localhost:", router.service->grpc_port()), grpc::SslCredentials(options)));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::CountTokensRequest request;
    request.set_text("hi");
    v1::CountTokensReply reply;
    return stub->CountTokens(&context, request, &reply);
  }

  net::TestAuthority authority_;
};

TEST_F(HttpTls, SaysGoodbyeBehindItsLastAnswer) {
  RouterHarness router(1, Config());
  TlsPeer peer(router.service->http_port(), authority_.CallerContext());
  peer.Send(LivezOnce());
  EXPECT_THAT(peer.ReadToEnd(), EndsWith("ok\n"));
}

TEST_F(HttpTls, PlainHttpAndGarbageAreClosedCountedAndDisturbNobody) {
  RouterHarness router(1, Config());
  TlsPeer open(router.service->http_port(), authority_.CallerContext());
  EXPECT_EQ(Ask(router, nullptr, LivezOnce()).find("HTTP/1.1 200"), std::string::npos);
  EXPECT_EQ(Ask(router, nullptr, std::string(100'000, 'x')).find("HTTP"), std::string::npos);
  AwaitMetric(router, "longshelf_router_tls_handshakes_failed_total 2");
  open.Send(LivezOnce());
  EXPECT_THAT(open.ReadToEnd(), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpTls, AConnectionThatHasNotAgreedYetCountsForTheCap) {
  RouterConfig config = Config();
  config.connections_max = 1;
  RouterHarness router(1, config);
  TlsPeer silent(router.service->http_port());
  EXPECT_FALSE(TlsPeer(router.service->http_port(), authority_.CallerContext()).agreed());
  AwaitMetric(router, "longshelf_router_http_connections_refused_total 1");
  silent.Close();
  AwaitMetric(router, "longshelf_router_http_connections 0");
  EXPECT_THAT(Ask(router, authority_.CallerContext(), LivezOnce()), StartsWith("HTTP/1.1 200"));
}

// Answers nothing: nobody gets so far.
class NoHandler final : public HttpHandler {
 public:
  std::optional<HttpReply> OnHeader(const HttpRequest&) override { return std::nullopt; }
  void OnRequest(HttpRequest, std::shared_ptr<HttpExchange>) override {}
  HttpReply TransportError(int status, const std::string& why, const std::string&) override {
    return {status, "text/plain", why, {}};
  }
};

TEST_F(HttpTls, WhoDoesNotAgreeInTimeIsLetGo) {
  boost::asio::io_context loop;
  Metrics registry("tls_test");
  RouterMetrics metrics(registry);
  NoHandler handler;
  HttpServerConfig config;
  config.listen = "127.0.0.1:0";
  config.tls = DoorIdentity();
  config.header_timeout = absl::Milliseconds(200);
  config.idle_timeout = absl::Hours(1);
  const auto server = HttpServer::Start(config, loop, handler, metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  std::thread thread([&loop] { loop.run(); });
  TlsPeer silent((*server)->port());
  EXPECT_EQ(silent.ReadToEnd(), "");
  TlsPeer half((*server)->port());
  half.Send("\x16\x03\x01\x02");  // the start of a greeting
  EXPECT_EQ(half.ReadToEnd(), "");
  boost::asio::post(loop, [&] { (*server)->CloseAll(); });
  thread.join();
  EXPECT_NE(registry.Serialize().find("longshelf_router_http_connections 0\n"), std::string::npos);
}

TEST_F(HttpTls, WithAnAuthorityOfClientsOnlyTheirsGetIn) {
  RouterHarness router(1, Config(/*asks_clients=*/true));
  EXPECT_EQ(Ask(router, authority_.CallerContext(), LivezOnce()), "");
  const auto client = authority_.Identity("client", Role::kClient);
  EXPECT_THAT(Ask(router, client->client_context(), LivezOnce()), StartsWith("HTTP/1.1 200"));
  net::TestAuthority stranger;
  net::TlsFiles files = stranger.Write("client", Role::kClient);
  files.authority = authority_.files().authority;
  EXPECT_EQ(Ask(router, authority_.Load(files)->client_context(), LivezOnce()), "");
}

TEST_F(HttpTls, TheGrpcDoorHasTheSameCertificateAndAsksTheSame) {
  const std::string authority = authority_.files().authority;
  const net::TlsFiles client = authority_.Write("client", Role::kClient);
  {
    RouterHarness open(1, Config());
    EXPECT_TRUE(Count(open, authority, {}).ok());
  }
  RouterHarness asks(1, Config(/*asks_clients=*/true));
  EXPECT_EQ(Count(asks, authority, {}).error_code(), grpc::StatusCode::UNAVAILABLE);
  const grpc::Status status = Count(asks, authority, client);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(HttpTls, ANewCertificateIsShownToNewConnectionsAndARunningStreamGoesOn) {
  Script script = {RouterHarness::AnswerTokens()};
  script.held = true;
  script.holds_at = 3;
  RouterHarness router(1, Config(), script);
  TlsPeer stream(router.service->http_port(), authority_.CallerContext());
  const std::string first = stream.serial();
  stream.Send(RequestText("POST", "/v1/chat/completions", ChatBody(R"("stream":true)"), {{"Connection", "close"}}));
  std::string text = stream.ReadUntil("reasoning_content");
  authority_.Write("door", Role::kRouter);
  const absl::Time patience = router.clock.Now() + absl::Seconds(20);
  while (TlsPeer(router.service->http_port(), authority_.CallerContext()).serial() == first) {
    ASSERT_LT(router.clock.Now(), patience) << "the old certificate is still shown";
  }
  router.workers[0]->Release();
  text += stream.ReadToEnd();
  EXPECT_THAT(text, HasSubstr("data: [DONE]"));
}

TEST_F(HttpTls, BeyondLoopbackGrpcNeedsTlsAndKeysOrCertificatesOfClients) {
  SystemClock clock;
  const auto start = [&](RouterConfig config) {
    config.grpc_listen = "0.0.0.0:0";
    return RouterService::Start(config, clock,
                                [](boost::asio::io_context&) { return std::vector<std::unique_ptr<WorkerLink>>(); })
        .status();
  };
  const absl::Status refused = start(Config());
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << "anybody could use it";
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--public-tls-client-ca"));
  EXPECT_TRUE(start(Config(/*asks_clients=*/true)).ok());
}

TEST_F(HttpTls, RefusesToStartWithACertificateThatIsOver) {
  SystemClock clock;
  RouterConfig config = Config();
  config.public_tls = authority_.Write("old", Role::kRouter, net::kOver);
  const auto refused = RouterService::Start(config, clock);
  EXPECT_EQ(ExitCodeOf(refused.status()), 78);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("has expired"));
}

}  // namespace
}  // namespace longshelf::router::testing
