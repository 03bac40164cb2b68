#include "head.h"

#include <gtest/gtest.h>

#include <string>

namespace longshelf::router {
namespace {

TEST(ScanHeader, FindsTheEndHoweverTheBytesArrive) {
  const std::string head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  for (size_t n = 0; n < head.size(); ++n) EXPECT_EQ(ScanHeader(head.substr(0, n)).state, HeaderScan::kIncomplete) << n;
  EXPECT_EQ(ScanHeader(head).state, HeaderScan::kComplete);
  EXPECT_EQ(ScanHeader(head + "body").end, head.size());
}

TEST(ScanHeader, RefusesBareLineEndsAndNul) {
  for (const char* head :
       {"GET / HTTP/1.1\nHost: x\n\n", "\nGET", "GET / HTTP/1.1\r\nHost: x\n\r\n", "GET / HTTP/1.1\rHost: x\r\n\r\n"}) {
    EXPECT_EQ(ScanHeader(head).state, HeaderScan::kMalformed) << head;
  }
  EXPECT_EQ(ScanHeader(std::string("GET /\0", 6)).state, HeaderScan::kMalformed);
}

TEST(ScanHeader, RefusesMoreThanTheLimit) {
  const std::string endless = "GET / HTTP/1.1\r\nX: " + std::string(20000, 'a');
  EXPECT_EQ(ScanHeader(endless).state, HeaderScan::kTooLarge);
  EXPECT_EQ(ScanHeader(endless + "\r\n\r\n").state, HeaderScan::kTooLarge);
}

TEST(CheckHeader, RefusesWhatTwoReadersCouldReadDifferently) {
  const std::string start = "POST / HTTP/1.1\r\nHost: x\r\n";
  for (const char* lines : {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                            "Content-Length: 5\r\nContent-Length: 6\r\n",
                            "Content-Length: 5\r\ncontent-length: 5\r\n",
                            "Content-Length: 5, 5\r\n",
                            "Content-Length: +5\r\n",
                            "Content-Length: 0x5\r\n",
                            "Content-Length:\r\n",
                            "Transfer-Encoding: gzip, chunked\r\n",
                            "Transfer-Encoding: xchunked\r\n",
                            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                            "Host: y\r\n",
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
                            "X(y): a\r\n"}) {
    EXPECT_NE(CheckHeader(start + lines + "\r\n"), "") << lines;
  }
  EXPECT_NE(CheckHeader("GET / HTTP/1.1\r\n\r\n"), "") << "no Host";
  EXPECT_EQ(CheckHeader("GET / HTTP/1.0\r\n\r\n"), "");
  EXPECT_EQ(CheckHeader(start + "Content-Length: 5\r\n\r\n"), "");
  EXPECT_EQ(CheckHeader(start + "Transfer-Encoding: Chunked\r\nX-Empty:\r\n\r\n"), "");
}

TEST(CheckHeader, RefusesTooManyHeaders) {
  std::string head = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 99; ++i) head += "X: y\r\n";
  EXPECT_EQ(CheckHeader(head + "\r\n"), "");
  EXPECT_NE(CheckHeader(head + "X: y\r\n\r\n"), "");
}

}  // namespace
}  // namespace longshelf::router
