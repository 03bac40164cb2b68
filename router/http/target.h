#pragma once

#include <string>
#include <string_view>
#include <variant>

// The target of a request (RFC 9112, 3.2), in a form that routing and authentication can compare byte for byte.
namespace longshelf::router {

struct RequestTarget {
  // What was encoded without need (RFC 3986, 6.2.2.2: letters, digits, '-', '.', '_', '~') is decoded, and nothing
  // else: an encoded slash is no slash, and nothing is decoded twice. "*" for the server as a whole.
  std::string path;
  std::string query;      // behind the first '?', as it was sent
  std::string authority;  // of an absolute target, and then what counts instead of Host; else empty
};

// Origin and absolute form (http and https), and "*" for OPTIONS; else what is wrong, as a sentence.
std::variant<RequestTarget, std::string> ParseTarget(std::string_view method, std::string_view target);

}  // namespace longshelf::router
