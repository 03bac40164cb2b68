#include "cli/http_client.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status.h"
#include "connection.h"

namespace longshelf::cli {
namespace {

namespace http = boost::beast::http;

constexpr size_t kCollectedBytesMax = 4 << 20;
constexpr uint32_t kHeaderBytesMax = 64 << 10;

std::string RequestText(const HttpUrl& url, const HttpCall& call) {
  const bool v6 = absl::StrContains(url.host, ":");
  std::string text = absl::StrCat(call.method, " ", url.path, call.target, " HTTP/1.1\r\nHost: ", v6 ? "[" : "",
                                  url.host, v6 ? "]" : "", ":", url.port, "\r\nConnection: close\r\n");
  for (const auto& [name, value] : call.headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
  if (!call.body.empty() || call.method == "POST") absl::StrAppend(&text, "Content-Length: ", call.body.size(), "\r\n");
  return absl::StrCat(text, "\r\n", call.body);
}

// Feeds the parser with what arrived and hands on what it found. `pending` keeps what the parser wants to see again.
absl::Status Digest(const HttpCall& call, http::response_parser<http::string_body>& parser, std::string& pending,
                    HttpAnswer& answer) {
  boost::system::error_code error;
  while (!pending.empty() && !parser.is_done()) {
    const size_t used = parser.put(boost::asio::buffer(pending), error);
    pending.erase(0, used);
    std::string& body = parser.get().body();
    if (parser.is_header_done() && !body.empty()) {
      answer.status = parser.get().result_int();
      if (call.on_body && answer.status == 200) {
        call.on_body(body);
      } else if (answer.body.size() + body.size() > kCollectedBytesMax) {
        return absl::ResourceExhaustedError("the answer is larger than 4 MiB");
      } else {
        answer.body += body;
      }
      body.clear();
    }
    if (error == http::error::need_more) return absl::OkStatus();
    if (error) return absl::UnavailableError(absl::StrCat("not an HTTP answer: ", error.message()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view text) {
  const std::string given(text);
  const auto refuse = [&given](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("expected http://HOST:PORT or https://, got ", given, why));
  };
  HttpUrl url;
  url.tls = absl::ConsumePrefix(&text, "https://");
  if (url.tls) url.port = 443;
  if (!url.tls && !absl::ConsumePrefix(&text, "http://")) return refuse("");
  const size_t slash = std::min(text.find('/'), text.size());
  url.path = std::string(absl::StripSuffix(text.substr(slash), "/"));
  std::string authority(text.substr(0, slash));
  const size_t colon = authority.rfind(':');
  if (colon != std::string::npos && authority.find(']', colon) == std::string::npos) {
    uint32_t port = 0;
    if (!absl::SimpleAtoi(authority.substr(colon + 1), &port) || port == 0 || port > 65535) return refuse("");
    url.port = static_cast<uint16_t>(port);
    authority.resize(colon);
  }
  if (authority.size() > 2 && authority.front() == '[') authority = authority.substr(1, authority.size() - 2);
  const bool plain = std::all_of(given.begin(), given.end(), [](unsigned char c) { return c > ' ' && c < 0x7F; });
  if (authority.empty() || !plain) return refuse("");
  url.host = std::move(authority);
  return url;
}

absl::StatusOr<net::SslContext> MakeCallContext(const net::TlsFiles& files) {
  ASSIGN_OR_RETURN(const net::TlsMaterial material, net::ReadMaterial(files));
  return net::MakeClientContext(material);
}

absl::StatusOr<HttpAnswer> CallHttp(const HttpUrl& url, const HttpCall& call) {
  ASSIGN_OR_RETURN(Connection connection, Connection::Open(url, call));
  RETURN_IF_ERROR(connection.SendAll(RequestText(url, call), call));
  HttpAnswer answer;
  http::response_parser<http::string_body> parser;
  parser.header_limit(kHeaderBytesMax);
  parser.body_limit(boost::none);  // a stream has no length; what is collected is bounded in Digest
  parser.eager(true);
  std::string pending;
  while (!parser.is_done()) {
    char piece[16384];
    ASSIGN_OR_RETURN(const size_t n, connection.Receive(piece, sizeof piece, call));
    if (n == 0) {
      boost::system::error_code error;
      if (parser.got_some()) parser.put_eof(error);
      if (error || !parser.is_done()) return absl::UnavailableError("the connection ended before the answer did");
      break;
    }
    pending.append(piece, n);
    RETURN_IF_ERROR(Digest(call, parser, pending, answer));
    if (pending.size() > kCollectedBytesMax) return absl::ResourceExhaustedError("a header or chunk without end");
  }
  answer.status = parser.get().result_int();
  return answer;
}

}  // namespace longshelf::cli
