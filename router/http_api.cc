#include "router/http_api.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "anthropic/messages_answer.h"
#include "api_forms.h"
#include "common/ids.h"
#include "http/media_type.h"
#include "http_call.h"
#include "router/api_error.h"
#include "router/api_json.h"

namespace longshelf::router {
namespace {

using Kind = Route::Kind;

constexpr std::array<Route, 31> kRoutes = {{
    {"POST", "/v1/chat/completions", Kind::kChat, false},
    {"POST", "/chat/completions", Kind::kChat, false},
    {"POST", "/v1/completions", Kind::kCompletions, false},
    {"POST", "/completions", Kind::kCompletions, false},
    // DeepSeek's base URL for prefix completion and FIM.
    {"POST", "/beta/chat/completions", Kind::kChat, false},
    {"POST", "/beta/completions", Kind::kCompletions, false},
    {"GET", "/beta/models", Kind::kModels, false},
    {"GET", "/beta/models/", Kind::kModel, false, true},
    {"POST", "/v1/messages", Kind::kMessages, false},
    {"POST", "/anthropic/v1/messages", Kind::kMessages, false},
    {"POST", "/v1/messages/count_tokens", Kind::kCountTokens, false},
    {"POST", "/anthropic/v1/messages/count_tokens", Kind::kCountTokens, false},
    {"POST", "/v1/responses", Kind::kResponses, false},
    {"POST", "/responses", Kind::kResponses, false},
    {"GET", "/v1/models", Kind::kModels, false},
    {"GET", "/models", Kind::kModels, false},
    {"GET", "/v1/models/", Kind::kModel, false, true},
    {"GET", "/models/", Kind::kModel, false, true},
    {"GET", "/v1/sessions", Kind::kSessions, false},
    {"GET", "/sessions", Kind::kSessions, false},
    {"GET", "/v1/sessions/", Kind::kSession, false, true},
    {"GET", "/sessions/", Kind::kSession, false, true},
    {"DELETE", "/v1/sessions/", Kind::kDropSession, false, true},
    {"DELETE", "/sessions/", Kind::kDropSession, false, true},
    {"POST", "/v1/sessions/", Kind::kSessionAction, false, true},
    {"POST", "/sessions/", Kind::kSessionAction, false, true},
    {"DELETE", "/v1/cache", Kind::kDropCache, false},
    {"DELETE", "/cache", Kind::kDropCache, false},
    {"GET", "/livez", Kind::kLive, true},
    {"GET", "/readyz", Kind::kReady, true},
    {"GET", "/healthz", Kind::kReady, true},
}};

static_assert(std::all_of(kRoutes.begin(), kRoutes.end(),
                          [](const Route& route) { return route.exempt != ScopeOf(route.kind).has_value(); }),
              "every route that needs a key needs a scope");

bool PathMatches(const Route& route, std::string_view path) {
  return route.prefix ? path.starts_with(route.path) && path.size() > route.path.size() : path == route.path;
}

const Route* FindRoute(std::string_view method, std::string_view path) {
  if (method == "HEAD") method = "GET";  // whose answer is sent without its body
  for (const Route& route : kRoutes) {
    if (route.method == method && PathMatches(route, path)) return &route;
  }
  return nullptr;
}

// For Allow; "" when there is nothing at the path.
std::string MethodsOf(std::string_view path) {
  std::vector<absl::string_view> methods;
  const auto add = [&methods](std::string_view name) {
    const absl::string_view method(name.data(), name.size());
    if (std::find(methods.begin(), methods.end(), method) == methods.end()) methods.push_back(method);
  };
  for (const Route& route : kRoutes) {
    if (path != "*" && !PathMatches(route, path)) continue;
    add(route.method);
    if (route.method == "GET") add("HEAD");
  }
  if (!methods.empty()) add("OPTIONS");
  return absl::StrJoin(methods, ", ");
}

std::string RequestIdOf(const std::string& sent) { return IsUsableRequestId(sent) ? sent : RequestId(); }

std::string RequestIdOf(const HttpRequest& request) { return RequestIdOf(request.x_request_id); }

// What is not encoded as it should be stays as it is: no name has a percent sign.
std::string PercentDecoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_digit = [&](size_t at) { return at < text.size() && absl::ascii_isxdigit(text[at]); };
    if (text[i] == '%' && is_digit(i + 1) && is_digit(i + 2)) {
      out += absl::HexStringToBytes(absl::string_view(text.data() + i + 1, 2));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::span<const Route> Routes() { return kRoutes; }

HttpApi::HttpApi(HttpApiConfig config, const KeyRing& keys, RequestCore& core)
    : config_(config), keys_(keys), core_(core), sessions_(core) {}
HttpApi::~HttpApi() = default;

void HttpApi::Tick() {
  const absl::Time now = core_.clock().Now();
  for (const auto& [key, call] : calls_) call->Tick(now);
}

HttpReply HttpApi::TransportError(int status, const std::string& why, const std::string& x_request_id) {
  ApiError error = status == 503 ? Overloaded() : ApiError{};
  error.http_status = status;
  error.message = why;
  core_.metrics().RequestFinished("none", status, absl::ZeroDuration());
  HttpReply reply = ErrorReply(error);
  AddRequestId(RequestIdOf(x_request_id), ApiStyle::kOpenAi, reply);
  return reply;
}

AuditRecord HttpApi::RecordOf(const HttpRequest& request, const Route* route, const Tenant* tenant) const {
  AuditRecord record{.begun_at = core_.clock().Now(), .request_id = RequestIdOf(request)};
  if (tenant != nullptr) record.tenant = tenant->name;
  if (tenant != nullptr && tenant->key != nullptr) record.key = tenant->key->label;
  record.route = route == nullptr ? "none" : route->path;
  record.client = request.peer;
  return record;
}

std::optional<HttpReply> HttpApi::OnHeader(const HttpRequest& request) {
  const Route* route = FindRoute(request.method, request.path);
  const KeyRing::Verdict verdict =
      keys_.Admit(request.authorization, request.x_api_key, route == nullptr ? std::nullopt : ScopeOf(route->kind),
                  core_.clock().WallNow());
  const auto finished = [&](int status) {
    AuditRecord record = RecordOf(request, route, verdict.tenant);
    record.status = status;
    core_.Finished(record);
    return record.request_id;
  };
  const auto refuse = [&](const ApiError& error) {
    const ApiStyle style = StyleOf(request.path);
    HttpReply reply = ErrorReply(error, style);
    AddRequestId(finished(error.http_status), style, reply);
    if (error.http_status == 405) reply.headers.emplace_back("Allow", MethodsOf(request.path));
    return reply;
  };
  // Deny by default: what needs no key is named in the table, and a path outside it needs one to be told so.
  // Probes name no host, so that nothing before us can take one request for another.
  if (route == nullptr || !route->exempt || request.is_absolute) {
    if (verdict.refusal.has_value()) {
      core_.metrics().AuthFailed(verdict.refused_for);
      return refuse(*verdict.refusal);
    }
  }
  if (route != nullptr) {
    const auto error = route->method == "POST" ? CheckMediaType(request) : std::nullopt;
    return error ? std::optional(refuse(*error)) : std::nullopt;
  }
  ApiError error;
  const std::string methods = MethodsOf(request.path);
  const bool known = !methods.empty();
  if (known && request.method == "OPTIONS") {
    HttpReply allowed{204, "", "", {{"Allow", methods}}};
    AddRequestId(finished(204), StyleOf(request.path), allowed);
    return allowed;
  }
  error.http_status = known ? 405 : 404;
  error.code = known ? "method_not_allowed" : "not_found";
  error.message = known ? "this path does not take this method" : "there is nothing at this path";
  return refuse(error);
}

std::string HttpApi::PayerOf(const HttpRequest& request) {
  const Tenant* tenant = keys_.anonymous() ? nullptr : keys_.Authenticate(request.authorization, request.x_api_key);
  return tenant == nullptr ? "" : tenant->name;
}

bool HttpApi::RunOffLoop(const HttpRequest& request, uint64_t n_bytes, std::function<void()> work,
                         std::function<void()> done) {
  const Tenant* tenant = keys_.Authenticate(request.authorization, request.x_api_key);
  return core_.RunOnPool({tenant == nullptr ? "" : tenant->name, n_bytes, std::move(work), std::move(done)});
}

void HttpApi::OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const Route* route = FindRoute(request.method, request.path);
  const Tenant* tenant = keys_.Authenticate(request.authorization, request.x_api_key);
  switch (route->kind) {
    case Kind::kChat:
    case Kind::kCompletions:
    case Kind::kMessages:
    case Kind::kResponses: {
      HttpCall& call = NewCall(*route, request, std::move(exchange), *tenant);
      return call.Start(*tenant, std::move(request.body), std::move(request.x_session), std::move(request.body_share));
    }
    case Kind::kCountTokens:
      return CountTokens(*route, std::move(request), exchange, *tenant);
    case Kind::kSessions:
    case Kind::kSession:
    case Kind::kDropSession:
    case Kind::kSessionAction:
    case Kind::kDropCache:
      return OnSession(*route, std::move(request), exchange, *tenant);
    default:
      return ReplyToGet(*route, request, *exchange, tenant);
  }
}

void HttpApi::CountTokens(const Route& route, HttpRequest request, const std::shared_ptr<HttpExchange>& exchange,
                          const Tenant& tenant) {
  using Result = std::variant<PreparedRequest, ApiError>;
  auto result = std::make_shared<Result>(ApiError{});
  auto reply = [this, &route, exchange, record = RecordOf(request, &route, &tenant)](const Result& counted) mutable {
    const ApiStyle style = StyleOf(route.path);
    const auto* error = std::get_if<ApiError>(&counted);
    HttpReply answer = error != nullptr ? ErrorReply(*error, style) : HttpReply{};
    if (error == nullptr) answer.body = TokenCountJson(std::get<PreparedRequest>(counted));
    record.status = answer.status;
    AddRequestId(record.request_id, style, answer);
    core_.Finished(std::move(record));
    exchange->Reply(std::move(answer));
  };
  if (const auto error = core_.CheckStarted()) return reply(*error);
  PrepareJob job{tenant.name, request.body.size(), nullptr, [reply, result]() mutable { reply(*result); }};
  job.work = [this, parse = ParserFor(route, core_, tenant), context = core_.prepare_context(tenant),
              body = std::move(request.body), body_share = std::move(request.body_share),
              result] { *result = PrepareParsed(core_.model(), context, parse(body)); };
  if (!core_.RunOnPool(std::move(job))) reply(Overloaded());
}

HttpCall& HttpApi::NewCall(const Route& route, const HttpRequest& request, std::shared_ptr<HttpExchange> exchange,
                           const Tenant& tenant) {
  auto call = std::make_unique<HttpCall>(config_, core_, route, RecordOf(request, &route, &tenant), std::move(exchange),
                                         [this](HttpCall& done) { calls_.erase(&done); });
  HttpCall& made = *call;
  calls_.emplace(&made, std::move(call));
  return made;
}

void HttpApi::OnSession(const Route& route, HttpRequest request, const std::shared_ptr<HttpExchange>& exchange,
                        const Tenant& tenant) {
  auto reply = [this, exchange, record = RecordOf(request, &route, &tenant)](HttpReply answer) mutable {
    record.status = answer.status;
    AddRequestId(record.request_id, ApiStyle::kOpenAi, answer);
    core_.Finished(std::move(record));
    exchange->Reply(std::move(answer));
  };
  if (const auto error = core_.CheckStarted()) return reply(ErrorReply(*error));
  // It is parsed here and now.
  if (request.body.size() > kSizeLimits.session_body_bytes) {
    ApiError error;
    error.http_status = 413;
    error.message = absl::StrCat("the request body is larger than ", kSizeLimits.session_body_bytes, " bytes");
    return reply(ErrorReply(error));
  }
  const std::string_view rest = std::string_view(request.path).substr(std::min(route.path.size(), request.path.size()));
  if (route.kind == Kind::kSessions) return sessions_.List(tenant, request.query, std::move(reply));
  if (route.kind == Kind::kDropCache) return sessions_.DeleteCache(tenant, request.query, std::move(reply));
  if (route.kind == Kind::kSession) return sessions_.Find(tenant, PercentDecoded(rest), std::move(reply));
  if (route.kind == Kind::kDropSession) return sessions_.Delete(tenant, PercentDecoded(rest), std::move(reply));
  const size_t slash = std::min(rest.find('/'), rest.size());
  const std::string id = PercentDecoded(rest.substr(0, slash));
  const std::string_view action = rest.substr(slash);
  if (action == "/park") return sessions_.Park(tenant, id, request.body, std::move(reply));
  if (action != "/resume") {
    ApiError error;
    error.http_status = 404;
    error.code = "not_found";
    error.message = "there is nothing at this path: a session has /park and /resume";
    return reply(ErrorReply(error));
  }
  if (const auto error = CheckSessionId(id)) return reply(ErrorReply(*error));
  NewCall(route, request, exchange, tenant).Resume(tenant, id, request.body);
}

void HttpApi::ReplyToGet(const Route& route, const HttpRequest& request, HttpExchange& exchange, const Tenant* tenant) {
  HttpReply reply;
  switch (route.kind) {
    case Kind::kModels:
      reply.body = ModelListJson(core_.model(), core_.n_context_max());
      break;
    case Kind::kModel: {
      const std::string name = PercentDecoded(std::string_view(request.path).substr(route.path.size()));
      if (name == core_.model().name) {
        reply.body = ModelJson(core_.model(), core_.n_context_max());
      } else {
        reply = ErrorReply(ModelNotFound(name.substr(0, kSizeLimits.model_name_bytes), core_.model().name));
      }
      break;
    }
    case Kind::kLive:
      reply.content_type = "text/plain";
      reply.body = "ok\n";
      break;
    default:
      reply.content_type = "text/plain";
      reply.status = core_.ready() ? 200 : 503;
      reply.body = core_.ready()            ? "ok\n"
                   : core_.draining()       ? "draining\n"
                   : core_.has_namespaces() ? "no worker is ready\n"
                                            : "starting\n";
      break;
  }
  AuditRecord record = RecordOf(request, &route, tenant);
  AddRequestId(record.request_id, ApiStyle::kOpenAi, reply);
  record.status = reply.status;
  // Probes are no news to whoever reads the audit log.
  route.exempt ? core_.metrics().RequestFinished(route.path, reply.status, absl::ZeroDuration())
               : core_.Finished(std::move(record));
  exchange.Reply(std::move(reply));
}

}  // namespace longshelf::router
