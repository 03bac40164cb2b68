#include "head.h"

#include <gtest/gtest.h>

#include <string>

namespace longshelf::router {
namespace {

HeadScan ScanOf(const std::string& bytes) { return HeadScanner().Scan(bytes); }

// The status that a complete head is refused with; 0: it is fine.
int FaultOf(const std::string& block, RequestHead* head = nullptr) {
  RequestHead own;
  const auto fault = ParseHead(block, head == nullptr ? own : *head);
  return fault ? fault->status : 0;
}

TEST(HeadScanner, FindsTheEndHoweverTheBytesArrive) {
  const std::string head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  for (size_t n = 0; n < head.size(); ++n) EXPECT_EQ(ScanOf(head.substr(0, n)), HeadScan::kIncomplete) << n;
  HeadScanner scanner;
  EXPECT_EQ(scanner.Scan("\r\n\r\n" + head + "body"), HeadScan::kComplete);
  EXPECT_EQ(scanner.begin(), 4u);
  EXPECT_EQ(scanner.end(), 4 + head.size());
}

TEST(HeadScanner, LooksAtEachByteOnceHoweverTheyArrive) {
  std::string head = "GET / HTTP/1.1\r\nHost: x\r\n";
  while (head.size() < 15000) head += "X-Some-Header: and its value\r\n";
  head += "\r\n";
  HeadScanner scanner;
  HeadScan state = HeadScan::kIncomplete;
  for (size_t n = 1; n <= head.size(); ++n) state = scanner.Scan(std::string_view(head).substr(0, n));
  EXPECT_EQ(state, HeadScan::kComplete);
  EXPECT_EQ(scanner.n_bytes_looked_at(), head.size());
}

TEST(HeadScanner, RefusesBareLineEndsAndNul) {
  for (const char* head : {"GET / HTTP/1.1\nHost: x\n\n", "\nGET", "\rGET", "GET / HTTP/1.1\r\nHost: x\n\r\n",
                           "GET / HTTP/1.1\rHost: x\r\n\r\n", "GET /\tHTTP/1.1\r\n"}) {
    EXPECT_EQ(ScanOf(head), HeadScan::kMalformed) << head;
  }
  EXPECT_EQ(ScanOf(std::string("GET /\0", 6)), HeadScan::kMalformed);
}

TEST(HeadScanner, SEC_27_RefusesMoreThanTheLimitWithoutReadingOn) {
  const std::string endless = "GET / HTTP/1.1\r\nX: " + std::string(20000, 'a');
  EXPECT_EQ(ScanOf(endless), HeadScan::kTooLarge);
  EXPECT_EQ(ScanOf(endless + "\r\n\r\n"), HeadScan::kTooLarge);
  HeadScanner scanner;
  scanner.Scan(endless);
  EXPECT_EQ(scanner.n_bytes_looked_at(), kSizeLimits.header_bytes);
  EXPECT_EQ(ScanOf("GET /" + std::string(kSizeLimits.request_line_bytes, 'a')), HeadScan::kTargetTooLong);
  EXPECT_EQ(ScanOf("GET /" + std::string(8000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"), HeadScan::kComplete);
  std::string empty_lines;
  for (int i = 0; i < 10000; ++i) empty_lines += "\r\n";
  EXPECT_EQ(ScanOf(empty_lines), HeadScan::kTooLarge);
}

TEST(ParseHead, SEC_13_RefusesWhatTwoReadersCouldReadDifferently) {
  const std::string start = "POST / HTTP/1.1\r\nHost: x\r\n";
  for (const char* lines : {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                            "Content-Length: 5\r\nContent-Length: 6\r\n",
                            "Content-Length: 5\r\ncontent-length: 5\r\n",
                            "Content-Length: 5, 5\r\n",
                            "Content-Length: +5\r\n",
                            "Content-Length: 0x5\r\n",
                            "Content-Length:\r\n",
                            "Transfer-Encoding: gzip\r\n",
                            "Transfer-Encoding: chunked, gzip\r\n",
                            "Transfer-Encoding: chunked, chunked\r\n",
                            "Transfer-Encoding: xchunked\r\n",
                            "Transfer-Encoding: chunked;x=y\r\n",
                            "Transfer-Encoding:\r\n",
                            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                            "Host: y\r\n",
                            "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
                            "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
                            "X: a\r\n b\r\n",
                            "X: a\r\n\tb\r\n",
                            "Content-Length : 5\r\n",
                            " X: y\r\n",
                            "X y\r\n",
                            ": y\r\n",
                            "X: a\x01"
                            "b\r\n",
                            "X: \x0b\r\n",
                            "Content-Length: \x0c"
                            "5\r\n",
                            "Transfer-Encoding: \x0b"
                            "chunked\r\n",
                            "X(y): a\r\n"}) {
    EXPECT_EQ(FaultOf(start + lines + "\r\n"), 400) << lines;
  }
  EXPECT_EQ(FaultOf("GET / HTTP/1.1\r\n\r\n"), 400) << "no Host";
  EXPECT_EQ(FaultOf("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  EXPECT_EQ(FaultOf(start + "Transfer-Encoding: gzip, chunked\r\n\r\n"), 501);
  for (const char* host : {"a b", "a@b", "a/b", "x:port", "[::1", "[::1]x", "x:123456", "a\"b"}) {
    EXPECT_EQ(FaultOf(std::string("GET / HTTP/1.1\r\nHost: ") + host + "\r\n\r\n"), 400) << host;
  }
}

TEST(ParseHead, SaysHowLongTheBodyIsAndWhatBecomesOfTheConnection) {
  RequestHead head;
  EXPECT_EQ(FaultOf("GET / HTTP/1.0\r\n\r\n", &head), 0);
  EXPECT_FALSE(head.has_body() || head.keep_alive);
  EXPECT_EQ(head.version_minor, 0);
  const std::string start = "POST / HTTP/1.1\r\nHost: [::1]:80\r\n";
  EXPECT_EQ(FaultOf(start + "Content-Length: 5\r\nConnection: x, CLOSE\r\n\r\n", &(head = {})), 0);
  EXPECT_EQ(head.content_length, 5u);
  EXPECT_FALSE(head.keep_alive);
  EXPECT_EQ(FaultOf(start + "Transfer-Encoding: ,Chunked\r\nX-Empty:\r\nX:\ty z \r\n\r\n", &(head = {})), 0);
  EXPECT_TRUE(head.chunked && head.keep_alive && head.has_body());
  EXPECT_EQ(FieldOf(head.fields, "x"), "y z");
  EXPECT_EQ(FaultOf(start + "Content-Length: 99999999999999999999999\r\n\r\n", &(head = {})), 0);
  EXPECT_EQ(head.content_length, UINT64_MAX);
  EXPECT_EQ(FaultOf("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", &(head = {})), 0);
  EXPECT_TRUE(head.keep_alive);
}

TEST(ParseHead, RefusesTooManyHeaders) {
  std::string head = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 99; ++i) head += "X: y\r\n";
  EXPECT_EQ(FaultOf(head + "\r\n"), 0);
  EXPECT_EQ(FaultOf(head + "X: y\r\n\r\n"), 431);
}

// What ParseTarget makes of it: path, query and authority, or why it is refused.
std::string TargetOf(const std::string& method, const std::string& target) {
  const auto result = ParseTarget(method, target);
  if (std::holds_alternative<std::string>(result)) return "refused";
  const auto& parsed = std::get<RequestTarget>(result);
  return parsed.path + " " + parsed.query + " " + parsed.authority;
}

TEST(ParseTarget, DecodesWhatNeedsNoEncodingAndNothingElse) {
  EXPECT_EQ(TargetOf("GET", "/v1/%6dodels?a=%6d&b"), "/v1/models a=%6d&b ");
  EXPECT_EQ(TargetOf("GET", "/v1/models/a%2Fb%252F%20c%7e"), "/v1/models/a%2Fb%252F%20c~  ");
  EXPECT_EQ(TargetOf("GET", "/v1/%2e%2E/livez"), "/v1/../livez  ");
  for (const char* target :
       {"/%00", "/a%", "/a%4", "/a%zz", "/a b", "/a\\b", "/a#b", "/\xc3\xa9", "/a\"", "/<", "/{}"}) {
    EXPECT_EQ(TargetOf("GET", target), "refused") << target;
  }
}

TEST(ParseTarget, KnowsAllForms) {
  EXPECT_EQ(TargetOf("GET", "http://a.b:80/v1/models?x"), "/v1/models x a.b:80");
  EXPECT_EQ(TargetOf("GET", "HTTPS://a"), "/  a");
  EXPECT_EQ(TargetOf("GET", "http://a?x"), "/ x a");
  EXPECT_EQ(TargetOf("OPTIONS", "*"), "*  ");
  EXPECT_EQ(TargetOf("OPTIONS", "http://a"), "*  a");
  EXPECT_EQ(TargetOf("OPTIONS", "http://a/"), "/  a");
  for (const char* target : {"*", "a.b:80", "http:///x", "http://u@a/x", "ftp://a/x", "", "x", "//"}) {
    EXPECT_EQ(TargetOf("GET", target) == "refused", std::string(target) != "//") << target;
  }
}

}  // namespace
}  // namespace longshelf::router
