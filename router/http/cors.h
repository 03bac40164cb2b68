#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "head.h"

namespace longshelf::router {

// Which pages of browsers may read our answers (Fetch standard, 3.2). Immutable.
class Cors {
 public:
  // Origins as browsers spell them (https://app.example.com), or "*" for all; none: no page may.
  explicit Cors(std::vector<std::string> origins);

  // The headers of every answer to a request with these fields, whatever it is.
  HttpFields AnswerHeaders(const HttpFields& request) const;
  // A browser asks before the request proper, and without its key: the headers of a 204. Nothing when this is none, or
  // when the page may not.
  std::optional<HttpFields> Preflight(const RequestHead& head) const;

 private:
  bool is_allowed(std::string_view origin) const;

  const std::vector<std::string> origins_;
  const bool all_;
};

}  // namespace longshelf::router
