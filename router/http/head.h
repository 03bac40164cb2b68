#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/http_message.h"
#include "router/limits.h"
#include "target.h"

// What the router accepts as the head of an HTTP/1.1 request (RFC 9110, RFC 9112), from the raw bytes. Two readers of
// the same bytes must never disagree about where a request ends: what proxies and servers are known to read
// differently is refused.
namespace longshelf::router {

enum class HeadScan : uint8_t {
  kIncomplete,     // so far nothing is wrong
  kComplete,       // begin() and end() are known
  kTargetTooLong,  // answer 414 and close
  kTooLarge,       // answer 431 and close
  kMalformed,      // answer 400 and close
};

// Finds the end of a head in bytes that come in pieces, and looks at each of them once. Lines end with CRLF; a bare LF
// or CR is malformed. Empty lines before the request line are passed over (RFC 9112, 2.2), within the limit.
class HeadScanner {
 public:
  explicit HeadScanner(size_t limit_bytes = kSizeLimits.header_bytes,
                       size_t request_line_bytes = kSizeLimits.request_line_bytes)
      : limit_bytes_(limit_bytes), request_line_bytes_(request_line_bytes) {}

  // For the next head.
  void Restart() { *this = HeadScanner(limit_bytes_, request_line_bytes_); }
  // `received`: everything since the last request's end; what an earlier call saw, and more. Once it is not
  // kIncomplete, it is over.
  HeadScan Scan(std::string_view received);
  // Of the head, with the empty line behind it.
  size_t begin() const { return begin_; }
  size_t end() const { return position_; }
  uint64_t n_bytes_looked_at() const { return n_bytes_looked_at_; }

 private:
  HeadScan Take(std::string_view received, char c);

  size_t limit_bytes_;
  size_t request_line_bytes_;
  size_t position_ = 0;
  size_t begin_ = 0;
  size_t n_line_bytes_ = 0;  // of this line, without its end
  bool in_request_line_ = true;
  uint64_t n_bytes_looked_at_ = 0;
};

// Why a request is refused before anybody has asked what it wants.
struct HttpFault {
  int status = 400;
  std::string why;  // a sentence without its full stop
  HttpFields headers = {};
};

struct RequestHead {
  std::string method;
  RequestTarget target;
  int version_minor = 1;  // 0 or 1
  HttpFields fields;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool keep_alive = false;
  bool expects_continue = false;

  bool has_body() const { return chunked || content_length.value_or(0) > 0; }
};

// Fills `head`, when there is a fault as far as it is known. REQUIRES: HeadScanner found that this block is complete.
std::optional<HttpFault> ParseHead(std::string_view block, RequestHead& head);

// The first field of the name; empty when there is none.
std::string_view FieldOf(const HttpFields& fields, std::string_view name);
// The elements of a field that is a list (RFC 9110, 5.6.1), of all its lines, without blanks; empty ones are left out.
std::vector<std::string_view> ListOf(const HttpFields& fields, std::string_view name);

// A line of fields, without its end: of a head, or of the trailer behind chunks. "" when it is fine, else what it has.
std::string CheckFieldLine(std::string_view line);
bool IsHttpToken(std::string_view text);

}  // namespace longshelf::router
