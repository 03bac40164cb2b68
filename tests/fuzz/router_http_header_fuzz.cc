// The head of a request as the router reads it from the raw bytes, and a body in chunks. However they arrive, the
// answer is the same, and each byte of a head is looked at once; what is let through Boost.Beast reads the same way: as
// many fields, the same values, the same length of the body.
#include <algorithm>
#include <boost/beast/http.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "chunks.h"
#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "head.h"

namespace longshelf::router {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr size_t kLimitBytes = 1024;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

using Field = std::pair<std::string, std::string>;  // name, value

// By the grammar alone: what stands between line ends.
std::vector<Field> FieldsOf(std::string_view block) {
  std::vector<Field> fields;
  size_t begin = block.find("\r\n") + 2;
  for (size_t end = block.find("\r\n", begin); end != begin; end = block.find("\r\n", begin)) {
    const std::string_view line = block.substr(begin, end - begin);
    const size_t colon = line.find(':');
    LONGSHELF_CHECK(colon != std::string_view::npos);
    fields.emplace_back(line.substr(0, colon), absl::StripAsciiWhitespace(View(line.substr(colon + 1))));
    begin = end + 2;
  }
  LONGSHELF_CHECK(begin + 2 == block.size());
  return fields;
}

void CheckAgreement(std::string_view block, const RequestHead& head) {
  http::request_parser<http::string_body> parser;
  parser.body_limit(uint64_t{1} << 40);
  parser.header_limit(kLimitBytes);
  parser.eager(true);
  boost::system::error_code error;
  parser.put(asio::buffer(block.data(), block.size()), error);
  if ((error && error != http::error::need_more) || !parser.is_header_done()) return;  // refused in the end
  std::vector<Field> read;
  for (const auto& field : parser.get()) read.emplace_back(field.name_string(), field.value());
  std::vector<Field> written = FieldsOf(block);
  // Beast moves fields of one name together.
  std::ranges::sort(read);
  std::ranges::sort(written);
  LONGSHELF_CHECK(read == written);
  LONGSHELF_CHECK(parser.chunked() == head.chunked);
  LONGSHELF_CHECK(parser.content_length().value_or(0) == head.content_length.value_or(0));
}

void ScanChunks(std::string_view coded) {
  struct Result {
    ChunkedDecoder::State state = ChunkedDecoder::State::kMore;
    std::string body;
    size_t n_used = 0;
  };
  const auto decode = [coded](size_t n_piece) {
    Result out;
    ChunkedDecoder decoder;
    while (out.state == ChunkedDecoder::State::kMore && out.n_used < coded.size()) {
      size_t n_used = 0;
      const auto take = [&](std::string_view data) {
        out.body += data;
        return true;
      };
      out.state = decoder.Push(coded.substr(out.n_used, n_piece), take, n_used);
      out.n_used += n_used;
    }
    return out;
  };
  const Result whole = decode(SIZE_MAX);
  const Result bytes = decode(1);
  LONGSHELF_CHECK(whole.state == bytes.state && whole.body == bytes.body && whole.n_used == bytes.n_used);
  LONGSHELF_CHECK(whole.body.size() < coded.size() || coded.empty());
}

void Scan(std::string_view received) {
  HeadScanner scanner(kLimitBytes, kLimitBytes / 2);
  const HeadScan whole = scanner.Scan(received);
  // However it arrives, the answer is the same.
  HeadScanner slow(kLimitBytes, kLimitBytes / 2);
  HeadScan part = HeadScan::kIncomplete;
  for (size_t n = 0; n <= received.size() && part == HeadScan::kIncomplete; ++n)
    part = slow.Scan(received.substr(0, n));
  LONGSHELF_CHECK(part == whole && slow.begin() == scanner.begin() && slow.end() == scanner.end());
  LONGSHELF_CHECK(scanner.n_bytes_looked_at() <= std::min(received.size(), kLimitBytes));
  if (whole != HeadScan::kComplete) return;
  LONGSHELF_CHECK(scanner.end() <= received.size() && scanner.end() <= kLimitBytes);
  const std::string_view block = received.substr(scanner.begin(), scanner.end() - scanner.begin());
  LONGSHELF_CHECK(block.find("\r\n\r\n") == block.size() - 4);
  ScanChunks(received.substr(scanner.end()));
  RequestHead head;
  if (ParseHead(block, head)) return;
  LONGSHELF_CHECK(std::ranges::none_of(block, [](char c) {
    return absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t' && c != '\r' && c != '\n';
  }));
  LONGSHELF_CHECK(head.target.path == "*" || head.target.path.front() == '/');
  CheckAgreement(block, head);
}

}  // namespace
}  // namespace longshelf::router

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  return {
      .inputs = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                 "POST /v1/chat/completions HTTP/1.1\r\nHost: a.b:80\r\nContent-Length: 5\r\nX-Empty:\r\n"
                 "Authorization: Bearer k\r\nx-longshelf-session: s-1\r\nConnection: keep-alive\r\n\r\nhello",
                 "POST /x?y=z HTTP/1.1\r\nhost:\tx \r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n5\r\n",
                 "GET /old HTTP/1.0\r\n\r\n"},
      .words = {"\r\n",
                "\r\n\r\n",
                "\n",
                "\r",
                " ",
                "\t",
                ":",
                "Content-Length: 7\r\n",
                "content-length:07\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Transfer-Encoding:\tchunked\t\r\n",
                "Host: y\r\n",
                "HTTP/1.0",
                "HTTP/1.1",
                "Connection: upgrade\r\n",
                "Upgrade: h2c\r\n",
                "Proxy-Connection: close\r\n",
                "\x0b",
                "\x0c",
                "\x80",
                "18446744073709551616",
                "Connection: close, x\r\n",
                "OPTIONS * HTTP/1.1",
                "http://a.b/x%2F%41",
                "%00",
                "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longshelf::router::Scan(longshelf::fuzz::FuzzInput(data, size).Rest());
  return 0;
}
