#include "head.h"

#include <algorithm>
#include <array>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr size_t kMaxHeaders = 100;
constexpr std::string_view kVersion = "HTTP/";

// Those of RFC 9110 and PATCH. CONNECT is not: no path here takes it, and what would follow is no HTTP.
constexpr std::array<std::string_view, 8> kMethods = {"GET",    "HEAD",    "POST",  "PUT",
                                                      "DELETE", "OPTIONS", "PATCH", "TRACE"};
// Given twice, two readers would take different ones.
constexpr std::array<std::string_view, 6> kSingle = {"host",      "content-length", "content-type",
                                                     "x-api-key", "authorization",  "origin"};

absl::string_view View(std::string_view s) { return {s.data(), s.size()}; }
bool IsSame(std::string_view a, std::string_view b) { return absl::EqualsIgnoreCase(View(a), View(b)); }

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

bool IsTokenChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool IsControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t') || byte == 0x7F;
}

HttpFault Malformed(std::string_view what) { return {400, absl::StrCat("the request has ", View(what))}; }

// RFC 9110, 7.2: uri-host and an optional port; nothing when the target has no authority.
bool IsHost(std::string_view host) {
  const size_t bracket = host.starts_with('[') ? host.find(']') : 0;
  if (bracket == std::string_view::npos) return false;
  const size_t colon = host.find(':', bracket);
  const std::string_view name = host.substr(0, std::min(colon, host.size()));
  const std::string_view port = colon == std::string_view::npos ? "" : host.substr(colon + 1);
  const bool is_literal = bracket > 0;
  if (is_literal && name.size() != bracket + 1) return false;
  const auto is_name = [&](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           std::string_view(is_literal ? "[]:.%" : "-._~!$&'()*+,;=%").find(c) != std::string_view::npos;
  };
  return std::all_of(name.begin(), name.end(), is_name) && port.size() <= 5 &&
         std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::optional<HttpFault> ReadRequestLine(std::string_view line, RequestHead& head) {
  const size_t method_end = line.find(' ');
  const size_t version_begin = line.rfind(' ');
  if (method_end == std::string_view::npos || version_begin == method_end) {
    return Malformed("a request line that is not METHOD TARGET VERSION");
  }
  head.method = std::string(line.substr(0, method_end));
  if (!IsHttpToken(head.method)) return Malformed("a malformed method");
  const std::string_view version = line.substr(version_begin + 1);
  const auto is_digit = [&](size_t at) { return version[at] >= '0' && version[at] <= '9'; };
  if (version.size() != kVersion.size() + 3 || !version.starts_with(kVersion) || !is_digit(5) || version[6] != '.' ||
      !is_digit(7)) {
    return Malformed("a malformed HTTP version");
  }
  if (version[5] != '1') return HttpFault{505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  head.version_minor = version[7] == '0' ? 0 : 1;
  if (std::find(kMethods.begin(), kMethods.end(), head.method) == kMethods.end()) {
    return HttpFault{501, "there is no such method here"};
  }
  auto target = ParseTarget(head.method, line.substr(method_end + 1, version_begin - method_end - 1));
  if (const auto* why = std::get_if<std::string>(&target)) return HttpFault{400, *why};
  head.target = std::get<RequestTarget>(std::move(target));
  if (!IsHost(head.target.authority)) return Malformed("a malformed host in its target");
  return std::nullopt;
}

std::optional<HttpFault> ReadFields(std::string_view lines, RequestHead& head) {
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find("\r\n", begin), lines.size());
    const std::string_view line = lines.substr(begin, end - begin);
    if (line.empty()) break;
    if (const std::string what = CheckFieldLine(line); !what.empty()) return Malformed(what);
    if (head.fields.size() == kMaxHeaders) {
      return HttpFault{431, absl::StrCat("the request has more than ", kMaxHeaders, " headers")};
    }
    const size_t colon = line.find(':');
    head.fields.emplace_back(line.substr(0, colon), Trimmed(line.substr(colon + 1)));
    begin = end + 2;
  }
  for (const std::string_view name : kSingle) {
    const auto n = std::count_if(head.fields.begin(), head.fields.end(),
                                 [name](const auto& field) { return IsSame(field.first, name); });
    if (n > 1) return Malformed(absl::StrCat("two ", View(name), " headers"));
    if (n == 0 && name == "host" && head.version_minor > 0) return Malformed("no Host header");
  }
  if (!IsHost(FieldOf(head.fields, "host"))) return Malformed("a malformed Host header");
  return std::nullopt;
}

bool HasField(const HttpFields& fields, std::string_view name) {
  return std::any_of(fields.begin(), fields.end(), [name](const auto& field) { return IsSame(field.first, name); });
}

std::optional<HttpFault> ReadEncodings(RequestHead& head) {
  if (!HasField(head.fields, "transfer-encoding")) return std::nullopt;
  const auto codings = ListOf(head.fields, "transfer-encoding");
  if (head.version_minor == 0) return Malformed("a Transfer-Encoding, which HTTP/1.0 does not have");
  if (HasField(head.fields, "content-length")) return Malformed("both Content-Length and Transfer-Encoding");
  const auto is_chunked = [](std::string_view coding) { return IsSame(coding, "chunked"); };
  if (codings.empty() || !is_chunked(codings.back())) {
    return Malformed("a Transfer-Encoding that does not end with chunked");
  }
  if (std::count_if(codings.begin(), codings.end(), is_chunked) > 1) {
    return Malformed("a body that is chunked twice");
  }
  if (codings.size() > 1) return HttpFault{501, "there is no transfer coding but chunked here"};
  head.chunked = true;
  return std::nullopt;
}

// RFC 9112, 6: how long the body is.
std::optional<HttpFault> ReadFraming(RequestHead& head) {
  if (auto fault = ReadEncodings(head)) return fault;
  if (!HasField(head.fields, "content-length")) return std::nullopt;
  const std::string_view length = FieldOf(head.fields, "content-length");
  if (length.empty() || !std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return Malformed("a malformed Content-Length");
  }
  uint64_t n_bytes = UINT64_MAX;  // what does not fit is more than any limit
  if (!absl::SimpleAtoi(View(length), &n_bytes)) n_bytes = UINT64_MAX;
  head.content_length = n_bytes;
  return std::nullopt;
}

void ReadConnection(RequestHead& head) {
  const auto options = ListOf(head.fields, "connection");
  const auto has = [&options](std::string_view name) {
    return std::any_of(options.begin(), options.end(),
                       [name](std::string_view option) { return IsSame(option, name); });
  };
  head.keep_alive = !has("close") && (head.version_minor > 0 || has("keep-alive"));
}

// RFC 9110, 10.1.1. HTTP/1.0 does not know it.
std::optional<HttpFault> ReadExpectations(RequestHead& head) {
  if (head.version_minor == 0) return std::nullopt;
  for (const std::string_view expectation : ListOf(head.fields, "expect")) {
    if (!IsSame(expectation, "100-continue")) return HttpFault{417, "only 100-continue can be expected here"};
    head.expects_continue = true;
  }
  return std::nullopt;
}

}  // namespace

HeadScan HeadScanner::Scan(std::string_view received) {
  const size_t end = std::min(received.size(), limit_bytes_);
  while (position_ < end) {
    const char c = received[position_];
    ++n_bytes_looked_at_;
    const HeadScan state = Take(received, c);
    if (state != HeadScan::kMalformed) ++position_;
    if (state != HeadScan::kIncomplete) return state;
  }
  return received.size() >= limit_bytes_ ? HeadScan::kTooLarge : HeadScan::kIncomplete;
}

// The byte at position_.
HeadScan HeadScanner::Take(std::string_view received, char c) {
  const bool after_cr = position_ > 0 && received[position_ - 1] == '\r';
  if (c == '\n') {
    if (!after_cr) return HeadScan::kMalformed;
    const bool is_empty = std::exchange(n_line_bytes_, 0) == 0;
    if (is_empty && !in_request_line_) return HeadScan::kComplete;
    if (is_empty) begin_ = position_ + 1;
    in_request_line_ = is_empty;
    return HeadScan::kIncomplete;
  }
  if (after_cr || c == '\0') return HeadScan::kMalformed;
  if (c == '\r') return HeadScan::kIncomplete;
  if (in_request_line_ && (IsControl(c) || c == '\t')) return HeadScan::kMalformed;
  ++n_line_bytes_;
  return in_request_line_ && n_line_bytes_ > request_line_bytes_ ? HeadScan::kTargetTooLong : HeadScan::kIncomplete;
}

std::optional<HttpFault> ParseHead(std::string_view block, RequestHead& head) {
  const size_t line_end = block.find("\r\n");
  // What is wrong with the framing comes first: whatever else is said, nothing behind it can be read.
  std::optional<HttpFault> line_fault = ReadRequestLine(block.substr(0, line_end), head);
  if (line_fault && line_fault->status == 400) return line_fault;
  if (auto fault = ReadFields(block.substr(line_end + 2), head)) return fault;
  if (auto fault = ReadFraming(head)) return fault;
  if (line_fault) return line_fault;
  ReadConnection(head);
  return ReadExpectations(head);
}

std::string_view FieldOf(const HttpFields& fields, std::string_view name) {
  for (const auto& [field, value] : fields) {
    if (IsSame(field, name)) return value;
  }
  return {};
}

std::vector<std::string_view> ListOf(const HttpFields& fields, std::string_view name) {
  std::vector<std::string_view> elements;
  for (const auto& [field, value] : fields) {
    if (!IsSame(field, name)) continue;
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find(',', begin), value.size());
      const std::string_view element = Trimmed(std::string_view(value).substr(begin, end - begin));
      if (!element.empty()) elements.push_back(element);
      begin = end + 1;
    }
  }
  return elements;
}

std::string CheckFieldLine(std::string_view line) {
  if (line.front() == ' ' || line.front() == '\t') return "a folded header line";
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return "a header line without a name";
  if (!IsHttpToken(line.substr(0, colon))) return "a malformed header name";
  // Before the value is trimmed: vertical tabs and form feeds are white space to some.
  if (std::any_of(line.begin(), line.end(), IsControl)) return "a control character in a header";
  return "";
}

bool IsHttpToken(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), IsTokenChar); }

}  // namespace longshelf::router
