#include "head.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace longshelf::router {
namespace {

constexpr size_t kMaxHeaders = 100;
constexpr std::string_view kEnd = "\r\n\r\n";

absl::string_view View(std::string_view s) { return {s.data(), s.size()}; }

bool IsTokenChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool IsControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t') || byte == 0x7F;
}

struct Counts {
  size_t headers = 0;
  size_t hosts = 0;
  size_t lengths = 0;
  size_t encodings = 0;
};

std::string CheckLine(std::string_view line, Counts& counts) {
  if (line.front() == ' ' || line.front() == '\t') return "a folded header line";
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return "a header line without a name";
  const std::string_view name = line.substr(0, colon);
  if (!std::all_of(name.begin(), name.end(), IsTokenChar)) return "a malformed header name";
  // Before the value is trimmed: vertical tabs and form feeds are white space to some.
  if (std::any_of(line.begin(), line.end(), IsControl)) return "a control character in a header";
  const absl::string_view value = absl::StripAsciiWhitespace(View(line.substr(colon + 1)));
  if (++counts.headers > kMaxHeaders) return "more than 100 headers";
  if (absl::EqualsIgnoreCase(View(name), "host")) ++counts.hosts;
  if (absl::EqualsIgnoreCase(View(name), "content-length")) {
    ++counts.lengths;
    if (value.empty() || !std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      return "a malformed Content-Length";
    }
  }
  if (absl::EqualsIgnoreCase(View(name), "transfer-encoding")) {
    ++counts.encodings;
    if (!absl::EqualsIgnoreCase(value, "chunked")) return "a Transfer-Encoding other than chunked";
  }
  return "";
}

}  // namespace

HeaderScanResult ScanHeader(std::string_view received, size_t limit_bytes) {
  const std::string_view head = received.substr(0, limit_bytes);
  for (size_t i = 0; i < head.size(); ++i) {
    if (head[i] == '\0') return {HeaderScan::kMalformed, 0};
    if (head[i] == '\n') {
      if (i == 0 || head[i - 1] != '\r') return {HeaderScan::kMalformed, 0};
      if (i + 1 >= kEnd.size() && head.substr(i + 1 - kEnd.size(), kEnd.size()) == kEnd) {
        return {HeaderScan::kComplete, i + 1};
      }
    } else if (i > 0 && head[i - 1] == '\r') {
      return {HeaderScan::kMalformed, 0};
    }
  }
  return {received.size() >= limit_bytes ? HeaderScan::kTooLarge : HeaderScan::kIncomplete, 0};
}

std::string CheckHeader(std::string_view block) {
  Counts counts;
  size_t begin = block.find("\r\n");
  const std::string_view request_line = block.substr(0, begin);
  if (std::any_of(request_line.begin(), request_line.end(), [](char c) { return IsControl(c) || c == '\t'; })) {
    return "a control character in the request line";
  }
  begin += 2;
  while (begin < block.size()) {
    const size_t end = block.find("\r\n", begin);
    if (end == std::string_view::npos || end == begin) break;
    if (std::string why = CheckLine(block.substr(begin, end - begin), counts); !why.empty()) return why;
    begin = end + 2;
  }
  if (counts.lengths > 1) return "two Content-Length headers";
  if (counts.encodings > 1) return "two Transfer-Encoding headers";
  if (counts.lengths + counts.encodings > 1) return "both Content-Length and Transfer-Encoding";
  if (counts.hosts > 1) return "two Host headers";
  if (counts.hosts == 0 && request_line.ends_with("HTTP/1.1")) return "no Host header";
  return "";
}

}  // namespace longshelf::router
