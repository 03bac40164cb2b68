#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "router/limits.h"

// What the router accepts as the head of an HTTP/1.1 request, checked on the raw bytes before any parser interprets
// them: two readers of the same bytes must never disagree about where a request ends.
namespace longshelf::router {

enum class HeaderScan : uint8_t {
  kIncomplete,  // so far nothing is wrong
  kComplete,    // `end` is one past the empty line
  kTooLarge,    // answer 431 and close
  kMalformed,   // answer 400 and close
};

struct HeaderScanResult {
  HeaderScan state = HeaderScan::kIncomplete;
  size_t end = 0;
};

// `received` is everything read since the last request's end. Lines end with CRLF; a bare LF or CR is malformed.
HeaderScanResult ScanHeader(std::string_view received, size_t limit_bytes = kSizeLimits.header_bytes);

// Refuses what proxies and servers are known to read differently: folded lines, a space before the colon, control
// characters, two Content-Length or two Transfer-Encoding, both together, an encoding other than chunked, no or two
// Host. "" when the block is fine, else what is wrong. REQUIRES: ScanHeader found it complete.
std::string CheckHeader(std::string_view block);

}  // namespace longshelf::router
