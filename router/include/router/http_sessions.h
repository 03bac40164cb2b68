#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "router/auth.h"
#include "router/http_server.h"
#include "router/request_core.h"
#include "router/sessions.h"

namespace longshelf::router {

// /v1/sessions over HTTP, but for resuming, which is an answer like any other. Owner: the router loop.
class HttpSessions {
 public:
  using Reply = std::function<void(HttpReply reply)>;

  // The core must outlive this.
  explicit HttpSessions(RequestCore& core) : core_(core) {}

  // GET /v1/sessions?limit=20&after=...
  void List(const Tenant& tenant, std::string_view query, Reply reply);
  // GET, DELETE /v1/sessions/ID
  void Find(const Tenant& tenant, std::string_view id, Reply reply);
  void Delete(const Tenant& tenant, std::string_view id, Reply reply);
  // POST /v1/sessions/ID/park
  void Park(const Tenant& tenant, std::string_view id, std::string_view body, Reply reply);
  // DELETE /v1/cache?user_id=...
  void DeleteCache(const Tenant& tenant, std::string_view query, Reply reply);

 private:
  RequestCore& core_;
};

}  // namespace longshelf::router
