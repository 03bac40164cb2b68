#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "router/audit_log.h"
#include "router/http_server.h"
#include "router/http_sessions.h"
#include "router/request_core.h"

namespace longshelf::router {

// One row per (method, path) the public door knows. Authentication and the tests read the same table, so a new route
// cannot forget it.
struct Route {
  enum class Kind : uint8_t {
    kChat,
    kCompletions,
    kMessages,
    kCountTokens,
    kResponses,
    kModels,
    kModel,
    kSessions,
    kSession,
    kDropSession,
    kDropCache,
    kSessionAction,  // the path goes on with ID/park or ID/resume
    kLive,
    kReady,
  };
  std::string_view method;
  std::string_view path;
  Kind kind;
  bool exempt;          // answered without a key
  bool prefix = false;  // the path goes on after this
};
std::span<const Route> Routes();

// What a key must be good for; null: none is asked for. The compiler says when a kind is forgotten.
constexpr std::optional<Scope> ScopeOf(Route::Kind kind) {
  switch (kind) {
    case Route::Kind::kChat:
      return Scope::kChat;
    case Route::Kind::kCompletions:
      return Scope::kCompletions;
    case Route::Kind::kMessages:
    case Route::Kind::kCountTokens:
      return Scope::kMessages;
    case Route::Kind::kResponses:
      return Scope::kResponses;
    case Route::Kind::kModels:
    case Route::Kind::kModel:
      return Scope::kModels;
    case Route::Kind::kSessions:
    case Route::Kind::kSession:
    case Route::Kind::kDropSession:
    case Route::Kind::kSessionAction:
      return Scope::kSessions;
    case Route::Kind::kDropCache:
      return Scope::kCache;
    case Route::Kind::kLive:
    case Route::Kind::kReady:
      return std::nullopt;
  }
  return std::nullopt;
}

struct HttpApiConfig {
  absl::Duration head_delay_max =
      absl::Milliseconds(500);                      // a stream's headers are sent after this, if a worker has it
  absl::Duration turn_wait_max = absl::Seconds(3);  // or after this, if one is up: by then it is known who is refused
  absl::Duration keep_alive_interval = absl::Seconds(5);  // silence, then a comment on streams, a blank line else
  // An answer in one piece whose worker has not begun, or a stream while no worker is up: the status can still be an
  // error's, but not for ever.
  absl::Duration whole_silence_max = absl::Seconds(15);
  size_t pause_above_bytes = size_t{256} << 10;  // unsent: no more tokens are asked for
};

class HttpCall;

// The HTTP APIs of OpenAI, DeepSeek and Anthropic over a RequestCore. Owner: the router loop.
class HttpApi final : public HttpHandler {
 public:
  // `core` and `keys` must outlive this.
  HttpApi(HttpApiConfig config, const KeyRing& keys, RequestCore& core);
  ~HttpApi() override;

  // Head and keep-alive deadlines; call at least every 100 ms.
  void Tick();

  std::optional<HttpReply> OnHeader(const HttpRequest& request) override;
  void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpReply TransportError(int status, const std::string& why, const std::string& x_request_id) override;
  std::string PayerOf(const HttpRequest& request) override;
  bool RunOffLoop(const HttpRequest& request, uint64_t n_bytes, std::function<void()> work,
                  std::function<void()> done) override;

 private:
  AuditRecord RecordOf(const HttpRequest& request, const Route* route, const Tenant* tenant) const;
  void ReplyToGet(const Route& route, const HttpRequest& request, HttpExchange& exchange, const Tenant* tenant);
  void OnSession(const Route& route, HttpRequest request, const std::shared_ptr<HttpExchange>& exchange,
                 const Tenant& tenant);
  void CountTokens(const Route& route, HttpRequest request, const std::shared_ptr<HttpExchange>& exchange,
                   const Tenant& tenant);
  HttpCall& NewCall(const Route& route, const HttpRequest& request, std::shared_ptr<HttpExchange> exchange,
                    const Tenant& tenant);

  const HttpApiConfig config_;
  const KeyRing& keys_;
  RequestCore& core_;
  HttpSessions sessions_;
  std::unordered_map<HttpCall*, std::unique_ptr<HttpCall>> calls_;
};

}  // namespace longshelf::router
