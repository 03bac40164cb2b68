// RFC 9110 and RFC 9112 as a table of what is sent and what must come back. Every row is a connection of its own;
// behind its bytes another request is sent at once, which is answered exactly if the connection is kept.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router_harness.h"
#include "testing/fixtures.h"

namespace longshelf::router::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

enum class End : bool { kKept, kClosed };
constexpr End kKept = End::kKept;
constexpr End kClosed = End::kClosed;

struct Case {
  const char* section;  // RFC 9112 where none is named
  std::string sent;
  std::string statuses;  // of the answers to it, in their order
  End end = kKept;
  std::vector<std::string> has = {};  // in the answers
  std::vector<std::string> has_not = {};
};

const std::string kHost = "Host: x\r\n";
std::string Get(const std::string& target, const std::string& fields = kHost) {
  return "GET " + target + " HTTP/1.1\r\n" + fields + "\r\n";
}
std::string With(const std::string& field) { return kHost + field + "\r\n"; }
std::string Line(const std::string& line) { return line + "\r\n" + kHost + "\r\n"; }
const std::string kBody = R"({"prompt":"x","max_tokens":1})";
std::string Post(const std::string& fields, const std::string& body) {
  return "POST /v1/completions HTTP/1.1\r\n" + kHost + fields + "\r\n" + body;
}
std::string Sized(const std::string& fields = "", const std::string& body = kBody) {
  return Post(absl::StrCat(fields, "Content-Length: ", body.size(), "\r\n"), body);
}
std::string Chunked(const std::string& coded, const std::string& fields = "") {
  return Post(fields + "Transfer-Encoding: chunked\r\n", coded);
}
std::string Chunk(const std::string& data, const std::string& extension = "") {
  return absl::StrCat(absl::Hex(data.size()), extension, "\r\n", data, "\r\n");
}

// The three digits behind each "HTTP/1.1 ".
std::string StatusesIn(const std::string& text) {
  std::string out;
  const std::string start = "HTTP/1.1 ";
  for (size_t at = text.find(start); at != std::string::npos; at = text.find(start, at + 1)) {
    const std::string status = text.substr(at + start.size(), 3);
    if (status.size() == 3 && absl::ascii_isdigit(static_cast<unsigned char>(status[0]))) {
      absl::StrAppend(&out, out.empty() ? "" : " ", status);
    }
  }
  return out;
}

class HttpStandards : public ::testing::Test {
 protected:
  void Check(const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      SCOPED_TRACE(absl::StrCat(c.section, ": ", c.sent.substr(0, 300)));
      TestClient client(router_.service->http_port());
      client.Send(c.sent + Get("/livez", With("x-request-id: the-next-one\r\nConnection: close")));
      const std::string told = client.ReadUntil("no such marker: read to the end");
      const bool is_kept = absl::StrContains(told, "the-next-one");
      EXPECT_EQ(is_kept ? End::kKept : End::kClosed, c.end);
      EXPECT_EQ(StatusesIn(told), absl::StrCat(c.statuses, is_kept ? (c.statuses.empty() ? "200" : " 200") : ""));
      for (const std::string& part : c.has) EXPECT_THAT(told, HasSubstr(part));
      for (const std::string& part : c.has_not) EXPECT_THAT(told, Not(HasSubstr(part)));
    }
  }
  RouterHarness router_;
};

TEST_F(HttpStandards, RequestLinesAndTargets) {
  Check({
      {"2.2", "\r\n" + Get("/livez"), "200"},
      {"2.2", "\r\n\r\n\r\n" + Get("/livez") + "\r\n", "200"},
      {"2.2", "\n" + Get("/livez"), "400", kClosed},
      {"2.2", "GET /livez HTTP/1.1\nHost: x\n\n", "400", kClosed},
      {"2.2", "GET /livez HTTP/1.1\rHost: x\r\n\r\n", "400", kClosed},
      {"2.2", "GET /livez HTTP/1.1\r\n Host: x\r\n\r\n", "400", kClosed},
      {"3", Line("GET  /livez HTTP/1.1"), "400", kClosed},
      {"3", Line("GET /livez"), "400", kClosed},
      {"3", Line(" GET /livez HTTP/1.1"), "400", kClosed},
      {"3", Line("GET /livez HTTP/1.1 "), "400", kClosed},
      {"3", Line("GET /li vez HTTP/1.1"), "400", kClosed},
      {"3", Line("G@T /livez HTTP/1.1"), "400", kClosed},
      {"3", Get("/" + std::string(7900, 'a')), "404"},
      {"3", Get("/" + std::string(8200, 'a')), "414", kClosed},
      {"3.2", Get("/li\\vez"), "400", kClosed},
      {"3.2", Get("/livez#x"), "400", kClosed},
      {"3.2", Get("/\xc3\xa9"), "400", kClosed},
      {"3.2", Get("/livez", ""), "400", kClosed},
      {"3.2", Get("/livez", kHost + kHost), "400", kClosed},
      {"3.2", Get("/livez", "Host: a b\r\n"), "400", kClosed},
      {"3.2", Get("/livez", "Host: a/b\r\n"), "400", kClosed},
      {"3.2", Get("/livez", "Host:\r\n"), "200"},
      {"3.2", Get("/livez", "Host: [::1]:8080\r\n"), "200"},
      {"3.2.1", Get("/livez?"), "200"},
      {"3.2.1", Get("/livez?a=b/c?d&%zz"), "400", kClosed},
      {"3.2.1", Get("/livez?a=b/c?d&%20"), "200"},
      {"3.2.2", Get("http://example.com/livez"), "200"},
      {"3.2.2", Get("HTTP://example.com:80/livez?x"), "200"},
      {"3.2.2", Get("https://[::1]/v1/models"), "200", kKept, {"\"object\":\"list\""}},
      {"3.2.2", Get("http://example.com"), "404"},
      {"3.2.2", Get("http://user@example.com/livez"), "400", kClosed},
      {"3.2.2", Get("http:///livez"), "400", kClosed},
      {"3.2.2", Get("ftp://example.com/livez"), "400", kClosed},
      {"3.2.3", Get("example.com:80"), "400", kClosed},
      {"3.2.3", Line("CONNECT example.com:80 HTTP/1.1"), "501", kClosed},
      {"3.2.4", Line("OPTIONS * HTTP/1.1"), "204", kKept, {"Allow: POST, GET, HEAD, DELETE, OPTIONS\r\n"}},
      {"3.2.4", Line("OPTIONS http://example.com HTTP/1.1"), "204", kKept, {"Allow: POST, GET, HEAD"}},
      {"3.2.4", Get("*"), "400", kClosed},
      {"9110 2.5", Line("GET /livez HTTP/1.2"), "200"},
      {"9110 2.5", Line("GET /livez HTTP/2.0"), "505", kClosed},
      {"9110 2.5", Line("GET /livez HTTP/0.9"), "505", kClosed},
      {"9110 2.5", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400", kClosed},
      {"2.3", Line("GET /livez HTTP/1.10"), "400", kClosed},
      {"2.3", Line("GET /livez http/1.1"), "400", kClosed},
      {"2.3", Line("GET /livez HTTP/1"), "400", kClosed},
      {"3986 6.2.2.2", Get("/%6Civez"), "200"},
      {"3986 6.2.2.2", Get("/v1%2Fmodels"), "404"},
      {"3986 6.2.2.2", Get("/v1/models/d%65mo"), "200"},
      {"3986 6.2.2.2", Get("/v1/models/d%2565mo"), "404"},
      {"3986 6.2.2.2", Get("/livez%00"), "400", kClosed},
      {"3986 6.2.2.2", Get("/livez%2"), "400", kClosed},
  });
}

TEST_F(HttpStandards, Methods) {
  Check({
      {"9110 9.1", Line("get /livez HTTP/1.1"), "501", kClosed},
      {"9110 9.1", Line("BREW /livez HTTP/1.1"), "501", kClosed},
      {"9110 9.1", Line("PROPFIND /v1/models HTTP/1.1"), "501", kClosed},
      {"9110 9.3.2", Line("HEAD /livez HTTP/1.1"), "200", kKept, {"Content-Length: 3\r\n"}, {"\r\n\r\nok\nHTTP"}},
      {"9110 9.3.2", Line("HEAD /v1/chat/completions HTTP/1.1"), "405", kKept, {}, {"{"}},
      {"9110 9.3.7",
       Line("OPTIONS /v1/chat/completions HTTP/1.1"),
       "204",
       kKept,
       {"Allow: POST, OPTIONS\r\n"},
       {"Content-Length: 0"}},
      {"9110 9.3.7", Line("OPTIONS /v1/models HTTP/1.1"), "204", kKept, {"Allow: GET, HEAD, OPTIONS\r\n"}},
      {"9110 9.3.7", Line("OPTIONS /nothing HTTP/1.1"), "404"},
      {"9110 15.5.6", Line("GET /v1/chat/completions HTTP/1.1"), "405", kKept, {"Allow: POST, OPTIONS\r\n"}},
      {"9110 15.5.6", Line("PUT /v1/models HTTP/1.1"), "405", kKept, {"Allow: GET, HEAD, OPTIONS\r\n"}},
      {"9110 15.5.6", Line("TRACE /v1/models HTTP/1.1"), "405", kKept, {"Allow: GET, HEAD, OPTIONS\r\n"}},
      {"9110 15.5.6", Line("PATCH /livez HTTP/1.1"), "405", kKept, {"Allow: GET, HEAD, OPTIONS\r\n"}},
      {"9110 15.5.5", Get("/nothing"), "404"},
  });
}

TEST_F(HttpStandards, FieldsAndSizes) {
  std::string many = kHost;
  for (int i = 0; i < 100; ++i) many += "X: y\r\n";
  Check({
      {"9110 5.5", Get("/livez", With("X:  \t y \t ")), "200"},
      {"9110 5.5", Get("/livez", With("X:")), "200"},
      {"9110 5.5", Get("/livez", With("X: \xc3\xa9")), "200"},
      {"9110 5.5", Get("/livez", With("X: a\x01")), "400", kClosed},
      {"9110 5.6.2", Get("/livez", With("X(: a")), "400", kClosed},
      {"5.1", Get("/livez", With("X : a")), "400", kClosed},
      {"5.1", Get("/livez", With(": a")), "400", kClosed},
      {"5.1", Get("/livez", With("X")), "400", kClosed},
      {"5.2", Get("/livez", With("X: a\r\n b")), "400", kClosed},
      {"5.2", Get("/livez", With("X: a\r\n\tb")), "400", kClosed},
      {"6585 5", Get("/livez", With("X: " + std::string(17'000, 'a'))), "431", kClosed},
      {"6585 5", Get("/livez", many), "431", kClosed},
      {"9110 6.6.1", Get("/livez"), "200", kKept, {"\r\nDate: ", " GMT\r\n"}},
      {"9110 6.6.1", Line("BREW /livez HTTP/1.1"), "501", kClosed, {"\r\nDate: "}},
      {"9110 12.5.1", Get("/v1/models", With("Accept: text/html")), "200"},
  });
}

TEST_F(HttpStandards, BodiesAndFraming) {
  const std::string whole = Chunk(kBody) + "0\r\n";
  Check({
      {"6.2", Sized(), "200"},
      {"6.2", Sized() + "\r\n", "200"},
      {"6.3", Post("", ""), "400"},
      {"6.3", Get("/livez", With("Content-Length: 3")) + "abc", "200"},
      {"6.3", Post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400", kClosed},
      {"6.3", Post("Content-Length: 5\r\nContent-Length: 5\r\n", "abcde"), "400", kClosed},
      {"6.3", Post("Content-Length: 5, 5\r\n", "abcde"), "400", kClosed},
      {"9110 8.6", Post("Content-Length: -5\r\n", "abcde"), "400", kClosed},
      {"9110 8.6", Post("Content-Length: 99999999999999999999999\r\n", "abcde"), "413", kClosed},
      {"9110 15.5.14", Post("Content-Length: 16777217\r\n", "abcde"), "413", kClosed},
      {"6.1", Post("Transfer-Encoding: gzip\r\n", "x"), "400", kClosed},
      {"6.1", Post("Transfer-Encoding: gzip, chunked\r\n", whole + "\r\n"), "501", kClosed},
      {"6.1", Post("Transfer-Encoding: chunked, chunked\r\n", whole + "\r\n"), "400", kClosed},
      {"6.1", "POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", kClosed},
      {"7", Post("transfer-encoding:  CHUNKED\r\n", whole + "\r\n"), "200"},
      {"7.1", Chunked(Chunk(kBody.substr(0, 5)) + Chunk(kBody.substr(5)) + "000\r\n\r\n"), "200"},
      {"7.1", Chunked("zz\r\n"), "400", kClosed},
      {"7.1", Chunked("3\r\nabcdef\r\n"), "400", kClosed},
      {"7.1", Chunked("3\nabc\n0\n\n"), "400", kClosed},
      {"7.1.1", Chunked(Chunk(kBody, ";name=value;other=\"a;b\"") + "0;last\r\n\r\n"), "200"},
      {"7.1.1", Chunked("1;" + std::string(17'000, 'x')), "431", kClosed},
      {"7.1.2", Chunked(whole + "X-Sum: 1\r\nX-Other: 2\r\n\r\n"), "200"},
      {"7.1.2", Chunked(whole + "Content-Length: 5\r\n\r\n"), "200"},
      {"7.1.2", Chunked(whole + "no colon\r\n\r\n"), "400", kClosed},
      {"7.1.2", Chunked(whole + "X: " + std::string(17'000, 'x')), "431", kClosed},
      {"9110 8.3", Sized("Content-Type: application/json; charset=utf-8\r\n"), "200"},
      {"9110 8.3", Sized("Content-Type: application/vnd.api+json\r\n"), "200"},
      {"9110 8.3", Sized("Content-Type: application/x-www-form-urlencoded\r\n"), "200"},
      {"9110 8.3", Sized("Content-Type: text/plain\r\nOrigin: https://a\r\n"), "415", kClosed},
      {"9110 8.3", Sized("Content-Type: application/x-www-form-urlencoded\r\nOrigin: https://a\r\n"), "415", kClosed},
      {"9110 8.3", Sized("Content-Type: multipart/form-data; boundary=x\r\n"), "415", kClosed},
      {"9110 8.3", Sized("Content-Type: application/json; charset=utf-16\r\n"), "415", kClosed},
      {"9110 8.4", Sized("Content-Encoding: identity\r\n"), "200"},
      {"9110 8.4", Sized("Content-Encoding: br\r\n"), "415", kClosed, {"Accept-Encoding: gzip, deflate, zstd\r\n"}},
      {"9110 8.4", Sized("Content-Encoding: gzip\r\n"), "400", kClosed, {"gzip"}},
      {"9110 10.1.1", Sized("Expect: 100-continue\r\n", ""), "400"},
      {"9110 10.1.1", Sized("Expect: 100-Continue\r\n"), "200"},
      {"9110 10.1.1", Sized("Expect: 200-maybe\r\n"), "417", kClosed},
      {"9110 10.1.1", Sized("Expect: 100-continue, x\r\n"), "417", kClosed},
  });
}

TEST_F(HttpStandards, Connections) {
  const std::string old = "GET /livez HTTP/1.0\r\n";
  Check({
      {"9.3", Get("/livez"), "200", kKept, {"Connection: keep-alive\r\n", "Keep-Alive: timeout=75\r\n"}},
      {"9.3", old + "\r\n", "200", kClosed, {"Connection: close\r\n"}},
      {"9.3", old + "Connection: Keep-Alive\r\n\r\n", "200", kKept, {"Connection: keep-alive\r\n"}},
      {"9.3", old + "Expect: 100-continue\r\nConnection: keep-alive\r\n\r\n", "200", kKept},
      {"9.3.2", Get("/livez") + Get("/nothing") + Sized() + Get("/livez"), "200 404 200 200"},
      {"9.6", Get("/livez", With("Connection: close")), "200", kClosed, {"Connection: close\r\n"}},
      {"9110 7.6.1", Get("/livez", With("Connection: x, ClOsE ,y")), "200", kClosed},
      {"9110 7.6.1", Get("/livez", With("Connection: keep-alive\r\nConnection: close")), "200", kClosed},
      {"9110 7.6.1", Get("/livez", With("Connection: closed")), "200"},
      {"9110 7.8", Get("/livez", With("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x")),
       "200"},
  });
}

TEST_F(HttpStandards, ARequestThatIsAnnouncedIsAskedForOnlyWhenItIsWanted) {
  TestClient client(router_.service->http_port());
  const std::string announced = Sized("Expect: 100-continue\r\n");
  const size_t head = announced.size() - kBody.size();
  client.Send(announced.substr(0, head));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("HTTP/1.1 100 Continue\r\n\r\n"));
  client.Send(announced.substr(head));
  EXPECT_THAT(client.ReadUntil("text_completion"), HasSubstr("HTTP/1.1 200 OK"));
  TestClient refused(router_.service->http_port());
  refused.Send(Post("Expect: 100-continue\r\nContent-Length: 99999999\r\n", ""));
  EXPECT_EQ(StatusesIn(refused.ReadUntil("no such marker")), "413");
}

TEST_F(HttpStandards, HeadHasTheHeadersOfGet) {
  for (const char* target : {"/livez", "/v1/models", "/v1/models/demo", "/v1/models/other", "/nothing"}) {
    std::string heads[2];
    for (const bool is_head : {false, true}) {
      TestClient client(router_.service->http_port());
      client.Send(RequestText(is_head ? "HEAD" : "GET", target, "", {{"Connection", "close"}, {"x-request-id", "a"}}));
      const std::string told = client.ReadUntil("no such marker");
      const size_t end = told.find("\r\n\r\n") + 4;
      EXPECT_EQ(told.size() == end, is_head) << target;
      const size_t date = told.find("Date: ");
      heads[is_head ? 1 : 0] = told.substr(0, date) + told.substr(told.find("\r\n", date), end);
      heads[is_head ? 1 : 0].resize(heads[is_head ? 1 : 0].find("\r\n\r\n"));
    }
    EXPECT_EQ(heads[0], heads[1]);
  }
}

TEST(HttpStandardsBounds, AConnectionTakesAsManyRequestsAsItMay) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.requests_per_connection_max = 3;
  RouterHarness router(1, config);
  TestClient client(router.service->http_port());
  client.Send(Get("/livez") + Get("/livez") + Get("/livez") + Get("/livez"));
  const std::string told = client.ReadUntil("no such marker");
  EXPECT_EQ(StatusesIn(told), "200 200 200");
  EXPECT_THAT(told, HasSubstr("Connection: close\r\n"));
}

TEST(HttpStandardsBounds, AnIdleConnectionIsClosedAndAHeadThatStandsStillToo) {
  RouterConfig config = RouterHarness::DefaultConfig();
  config.idle_timeout = absl::Milliseconds(200);
  config.header_timeout = absl::Hours(1);
  RouterHarness idle(1, config);
  TestClient silent(idle.service->http_port());
  silent.Send(Get("/livez") + "\r\n");  // an empty line is no request
  EXPECT_EQ(StatusesIn(silent.ReadUntil("no such marker")), "200");
  config.idle_timeout = absl::Hours(1);
  config.header_timeout = absl::Milliseconds(200);
  RouterHarness hasty(1, config);
  TestClient half(hasty.service->http_port());
  half.Send("GET /livez HTTP/1.1\r\n");
  EXPECT_EQ(half.ReadUntil("no such marker"), "");
}

// ---- Pages of browsers ----

class HttpCors : public ::testing::Test {
 protected:
  static RouterConfig Config(const std::vector<std::string>& origins) {
    RouterConfig config = RouterHarness::DefaultConfig();
    config.cors_origins = origins;
    const auto dir = longshelf::testing::MakeTempDir("router-keys");
    config.api_keys_file = (dir / "keys").string();
    FILE* file = fopen(config.api_keys_file.c_str(), "w");
    fputs("alice:sk-alice\n", file);
    fclose(file);
    return config;
  }
  static Headers From(const std::string& origin, Headers more = {}) {
    more.emplace_back("Origin", origin);
    return more;
  }
  static Headers Asking(const std::string& origin) {
    return From(origin, {{"Access-Control-Request-Method", "POST"},
                         {"Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"}});
  }
};

TEST_F(HttpCors, APageThatMayAsksWithoutAKeyAndReadsEveryAnswer) {
  const std::string page = "https://app.example.com";
  RouterHarness router(1, Config({"http://localhost:3000", page}));
  const Reply asked = router.Do("OPTIONS", "/v1/chat/completions", "", Asking(page));
  EXPECT_EQ(asked.result_int(), 204u);
  EXPECT_EQ(asked["Access-Control-Allow-Origin"], page);
  EXPECT_EQ(asked["Access-Control-Allow-Headers"], "authorization, content-type, x-stainless-os");
  EXPECT_THAT(std::string(asked["Access-Control-Allow-Methods"]), HasSubstr("POST"));
  EXPECT_EQ(asked["Access-Control-Max-Age"], "7200");
  EXPECT_FALSE(asked["x-request-id"].empty());
  const Headers key = {{"Authorization", "Bearer sk-alice"}};
  const auto check = [&](const Reply& reply, unsigned status) {
    EXPECT_EQ(reply.result_int(), status);
    EXPECT_EQ(reply["Access-Control-Allow-Origin"], page);
    EXPECT_EQ(reply["Vary"], "Origin");
    EXPECT_THAT(std::string(reply["Access-Control-Expose-Headers"]), HasSubstr("x-request-id"));
    EXPECT_THAT(std::string(reply["Access-Control-Expose-Headers"]), HasSubstr("Retry-After"));
    EXPECT_EQ(reply.count("Access-Control-Allow-Credentials"), 0u);
  };
  check(router.Do("GET", "/v1/models", "", From(page)), 401);
  check(router.Do("GET", "/v1/models", "", From(page, key)), 200);
  check(router.Do("GET", "/nothing", "", From(page, key)), 404);
  check(router.Do("BREW", "/v1/models", "", From(page, key)), 501);
  check(router.Chat("", From(page, key)), 200);
  check(router.Chat(R"("stream":true)", From(page, key)), 200);
  check(router.Chat(R"("n":0)", From(page, key)), 400);
}

TEST_F(HttpCors, OtherPagesAreNotAnsweredAsIfTheyMight) {
  RouterHarness router(1, Config({"https://app.example.com"}));
  for (const char* page : {"https://app.example.com.evil.org", "https://evil.org", "http://app.example.com", "null",
                           "https://app.example.com:444"}) {
    const Reply asked = router.Do("OPTIONS", "/v1/chat/completions", "", Asking(page));
    EXPECT_EQ(asked.result_int(), 401u) << page;
    EXPECT_EQ(asked.count("Access-Control-Allow-Origin"), 0u);
    EXPECT_EQ(asked["Vary"], "Origin");
  }
  EXPECT_EQ(router.Do("GET", "/livez", "")["Vary"], "Origin");
}

TEST_F(HttpCors, AllPagesMayOrNone) {
  RouterHarness all(1, Config({"*"}));
  EXPECT_EQ(all.Do("OPTIONS", "/v1/models", "", Asking("https://x"))["Access-Control-Allow-Origin"], "*");
  TestClient client(all.service->http_port());
  client.Send("GET /livez HTTP/9\r\n\r\n");
  EXPECT_EQ(client.Read()["Access-Control-Allow-Origin"], "*") << "of an error before there is a request";
  RouterHarness none(1, Config({}));
  const Reply asked = none.Do("OPTIONS", "/v1/models", "", Asking("https://x"));
  EXPECT_EQ(asked.result_int(), 401u);
  EXPECT_EQ(asked.count("Access-Control-Allow-Origin") + asked.count("Vary"), 0u);
}

}  // namespace
}  // namespace longshelf::router::testing
