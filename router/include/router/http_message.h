#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace longshelf::router {

using HttpFields = std::vector<std::pair<std::string, std::string>>;  // names as they were sent; values without blanks

struct HttpRequest {
  std::string method;
  // The target up to '?'. Letters, digits, '-', '.', '_' and '~' are never percent-encoded in it; what else was is
  // still, so whoever cuts a name out of it decodes that, once. "*" for the server as a whole.
  std::string path;
  std::string query;         // what is behind it, as it was sent
  std::string host;          // who was asked, as it was sent; empty when HTTP/1.0 did not say
  bool is_absolute = false;  // the target named its host, as for a proxy
  std::string peer;          // the address of who asks
  HttpFields fields;
  std::string authorization;
  std::string x_api_key;
  std::string x_request_id;
  std::string x_session;
  std::string body;  // decoded; with room behind it, so that a JSON parser can read it where it is
  // The body's part of what all bodies may take: to be kept until the last copy of it is gone.
  std::shared_ptr<const void> body_share = {};
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpFields headers;
};

}  // namespace longshelf::router
