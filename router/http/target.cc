#include "target.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace longshelf::router {
namespace {

constexpr std::string_view kBehindScheme = "://";

bool IsUnreserved(unsigned char c) { return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~'; }

// RFC 3986, 3.3 and 3.4.
bool IsTargetChar(unsigned char c) {
  return IsUnreserved(c) || std::string_view("!$&'()*+,;=:@/?%").find(static_cast<char>(c)) != std::string_view::npos;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// The byte that "%XY" at `at` stands for; -1: it is none.
int Encoded(std::string_view text, size_t at) {
  if (at + 2 >= text.size()) return -1;
  const int high = HexDigit(text[at + 1]);
  const int low = HexDigit(text[at + 2]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string CheckCharacters(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (!IsTargetChar(static_cast<unsigned char>(text[i])))
      return "the request's target has a character that no URI has";
    if (text[i] != '%') continue;
    const int byte = Encoded(text, i);
    if (byte < 0) return "the request's target has a percent sign without two hexadecimal digits";
    if (byte == 0) return "the request's target has an encoded NUL";
  }
  return "";
}

std::string Normalized(std::string_view path) {
  std::string out;
  out.reserve(path.size());
  for (size_t i = 0; i < path.size(); ++i) {
    const int byte = path[i] == '%' ? Encoded(path, i) : -1;
    if (byte >= 0 && IsUnreserved(static_cast<unsigned char>(byte))) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += path[i];
    }
  }
  return out;
}

bool IsWebScheme(std::string_view scheme) {
  const absl::string_view text(scheme.data(), scheme.size());
  return absl::EqualsIgnoreCase(text, "http") || absl::EqualsIgnoreCase(text, "https");
}

// Of "scheme://authority/path": takes what is before the path.
std::string TakeAuthority(std::string_view& rest, RequestTarget& out) {
  const size_t scheme_end = rest.find(kBehindScheme);
  if (scheme_end == std::string_view::npos || !IsWebScheme(rest.substr(0, scheme_end))) {
    return "the request's target is neither a path nor an http or https URI";
  }
  rest.remove_prefix(scheme_end + kBehindScheme.size());
  const size_t authority_end = std::min(rest.find_first_of("/?"), rest.size());
  out.authority = std::string(rest.substr(0, authority_end));
  rest.remove_prefix(authority_end);
  if (out.authority.empty()) return "the request's target has no host";
  if (out.authority.find('@') != std::string::npos) return "the request's target has a user in it";
  return "";
}

}  // namespace

std::variant<RequestTarget, std::string> ParseTarget(std::string_view method, std::string_view target) {
  RequestTarget out;
  const bool is_options = method == "OPTIONS";
  if (target == "*") {
    if (!is_options) return std::string("the request's target is *, which only OPTIONS takes");
    out.path = "*";
    return out;
  }
  std::string_view rest = target;
  const bool is_absolute = !rest.starts_with('/');
  if (is_absolute) {
    if (std::string why = TakeAuthority(rest, out); !why.empty()) return why;
  }
  if (std::string why = CheckCharacters(rest); !why.empty()) return why;
  const size_t path_end = std::min(rest.find('?'), rest.size());
  out.path = Normalized(rest.substr(0, path_end));
  if (path_end < rest.size()) out.query = std::string(rest.substr(path_end + 1));
  // RFC 9112, 3.2.4: a proxy was asked about the server as a whole.
  if (out.path.empty()) out.path = is_options && path_end == rest.size() ? "*" : "/";
  return out;
}

}  // namespace longshelf::router
