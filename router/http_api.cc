#include "router/http_api.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/ids.h"
#include "router/api_error.h"
#include "router/api_json.h"

namespace longshelf::router {
namespace {

using Kind = Route::Kind;

constexpr std::array<Route, 25> kRoutes = {{
    {"POST", "/v1/chat/completions", Kind::kChat, false},
    {"POST", "/chat/completions", Kind::kChat, false},
    {"POST", "/v1/completions", Kind::kCompletions, false},
    {"POST", "/completions", Kind::kCompletions, false},
    // DeepSeek's base URL for prefix completion and FIM.
    {"POST", "/beta/chat/completions", Kind::kChat, false},
    {"POST", "/beta/completions", Kind::kCompletions, false},
    {"GET", "/beta/models", Kind::kModels, false},
    {"GET", "/beta/models/", Kind::kModel, false, true},
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

std::string MethodsOf(std::string_view path) {
  std::string methods;
  for (const Route& route : kRoutes) {
    if (!PathMatches(route, path)) continue;
    const absl::string_view method(route.method.data(), route.method.size());
    absl::StrAppend(&methods, methods.empty() ? "" : ", ", method, method == "GET" ? ", HEAD" : "");
  }
  return methods;
}

constexpr size_t kProgressBacklogBytes = 4096;

std::string RequestIdOf(const std::string& sent) { return IsUsableRequestId(sent) ? sent : RequestId(); }

std::string RequestIdOf(const HttpRequest& request) { return RequestIdOf(request.x_request_id); }

// A session that the header names, beside what the body says.
std::optional<ApiError> JoinSession(const std::string& session, const std::string& body, ApiRequest& request) {
  if (auto error = CheckSessionId(session)) return error;
  if (!request.session.empty() && request.session != session) {
    return InvalidField("session", "is not the one that the header x-longshelf-session names");
  }
  if (request.n > 1) return InvalidField("n", "must be 1 with a session: it has one answer at a time");
  if (request.best_of > 1) return InvalidField("best_of", "must be 1 with a session: it has one answer at a time");
  if (request.prompts.size() > 1) {
    return InvalidField("prompt", "must be one with a session: it has one answer at a time");
  }
  if (request.echo && request.sampling.logprobs) {
    return InvalidField("echo", "cannot be combined with logprobs and a session");
  }
  request.session = session;
  if (request.body == nullptr) request.body = std::make_shared<const std::string>(body);
  return std::nullopt;
}

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

int64_t UnixSeconds(Clock& clock) { return absl::ToUnixSeconds(clock.WallNow()); }

}  // namespace

std::span<const Route> Routes() { return kRoutes; }

HttpReply ErrorReply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.http_status;
  reply.body = ErrorBody(error);
  if (error.retry_after_s > 0) reply.headers.emplace_back("Retry-After", absl::StrCat(error.retry_after_s));
  if (error.http_status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

// One generating request: from its body to the last byte of its answer.
class HttpApi::Call final : public RequestSink, public HttpExchangeObserver {
 public:
  Call(HttpApi& api, const Route& route, std::string request_id, std::shared_ptr<HttpExchange> exchange)
      : api_(api),
        route_(route),
        request_id_(std::move(request_id)),
        exchange_(std::move(exchange)),
        begun_at_(api.core_.clock().Now()),
        last_write_at_(begun_at_) {
    exchange_->SetObserver(this);
  }
  ~Call() override { exchange_->SetObserver(nullptr); }

  // `session`: what the header names, or empty.
  void Start(const Tenant& tenant, std::string body, std::string session) {
    const Api kind = route_.kind == Kind::kChat ? Api::kChat : Api::kCompletions;
    auto parse = [kind, limits = api_.core_.parse_limits(), body = std::move(body), session = std::move(session)] {
      auto parsed = ParseRequestBody(kind, body, limits);
      auto* request = std::get_if<ApiRequest>(&parsed);
      if (request == nullptr || session.empty()) return parsed;
      if (auto error = JoinSession(session, body, *request)) return decltype(parsed)(*std::move(error));
      return parsed;
    };
    running_ = api_.core_.Run(std::move(parse), tenant, request_id_, *this);
  }

  // Goes on with an answer that was broken off.
  void Resume(const Tenant& tenant, const std::string& id, const std::string& body) {
    const auto options = ParseResumeBody(body, api_.core_.parse_limits());
    if (const auto* error = std::get_if<ApiError>(&options)) return OnError(*error);
    const auto stream = std::get<std::optional<bool>>(options);
    api_.core_.sessions().LoadUnfinished(
        tenant, id, [this, alive = std::weak_ptr<int>(alive_), tenant, stream](std::variant<Session, ApiError> loaded) {
          if (alive.expired()) return;
          if (const auto* error = std::get_if<ApiError>(&loaded)) return OnError(*error);
          auto parse = [session = std::get<Session>(std::move(loaded)), stream, limits = api_.core_.parse_limits()] {
            return RequestToResume(session, stream, limits);
          };
          running_ = api_.core_.Run(std::move(parse), tenant, request_id_, *this);
        });
  }

  void Tick(absl::Time now) {
    if (stream_ == nullptr && whole_ == nullptr) return;
    if (now - last_write_at_ < SilenceMax()) return;
    SendHead();
    // JSON may have blank lines in front.
    Write(stream_ ? ": keep-alive\n\n" : "\n");
  }

  void OnPrepared(const PreparedRequest& prepared) override {
    const ApiRequest& request = prepared.request;
    if (!api_.core_.sessions().HasRoomFor(prepared)) return OnError(Overloaded());
    AnswerHead head;
    head.api = request.api;
    head.id = absl::StrCat(request.api == Api::kChat ? "chatcmpl-" : "cmpl-", RandomId());
    head.created_unix_s = UnixSeconds(api_.core_.clock());
    head.model = api_.core_.model().name;
    head.thinking = request.api == Api::kChat && request.thinking_mode == tokenizer::ThinkingMode::kThinking &&
                    !request.continues_assistant;
    head.logprobs = request.sampling.logprobs;
    const ServedModel& model = api_.core_.model();
    if (request.stream) {
      stream_ = std::make_unique<StreamAnswer>(model, std::move(head), prepared.n_choices(), request.include_usage);
    } else {
      whole_ = std::make_unique<WholeAnswer>(model, std::move(head), prepared.n_choices());
    }
  }

  void OnBegun() override {
    begun_ = true;
    if (whole_) return whole_->AnsweredBy(api_.core_.system_fingerprint());
    stream_->AnsweredBy(api_.core_.system_fingerprint());
    SendHead();
    SendOpening();
  }

  void OnReplayed(uint32_t choice, const ChoiceDelta& delta) override {
    whole_ ? whole_->Skip(choice, delta) : stream_->Skip(choice, delta);
  }

  void OnProgress(const PrefillProgress& progress) override {
    // A client that does not read needs no more of them: the next one says it all.
    if (whole_ || exchange_->unsent_bytes() > kProgressBacklogBytes) return;
    SendHead();
    Write(absl::StrCat(": prefill ", progress.n_done, "/", progress.n_total, "\n\n"));
  }

  void OnDelta(uint32_t choice, const ChoiceDelta& delta) override {
    if (whole_) return whole_->Add(choice, delta);
    SendHead();
    SendOpening();
    Write(stream_->Delta(choice, delta));
    if (exchange_->unsent_bytes() > api_.config_.pause_above_bytes && !paused_) {
      paused_ = true;
      running_->Pause();
    }
  }

  void OnChoiceFinished(uint32_t choice, std::string_view finish_reason) override {
    if (whole_) return whole_->Finished(choice, finish_reason);
    // It may be ended before a worker has begun.
    SendHead();
    SendOpening();
    Write(stream_->Finished(choice, finish_reason));
  }

  void OnDone(const Usage& usage) override {
    if (whole_) {
      HttpReply reply;
      reply.body = whole_->Body(usage);
      if (!head_sent_) return EndWith(std::move(reply));
      Write(reply.body);
      return EndStream(200);
    }
    Write(stream_->Done(usage));
    EndStream(200);
  }

  void OnError(const ApiError& error) override {
    if (!head_sent_) return EndWith(ErrorReply(error));
    // The status is spent: only the body can tell.
    Write(whole_ ? ErrorBody(error) : StreamAnswer::Error(error));
    EndStream(error.http_status);
  }

  void OnClientGone() override {
    constexpr int kClientClosedRequest = 499;
    Count(kClientClosedRequest);
    if (paused_) api_.core_.metrics().SlowClientDropped();
    api_.Forget(*this);
  }

  void OnDrained() override {
    if (!std::exchange(paused_, false)) return;
    running_->Resume();
  }

 private:
  absl::Duration SilenceMax() const {
    const HttpApiConfig& config = api_.config_;
    if (stream_ != nullptr) return head_sent_ ? config.keep_alive_interval : config.head_delay_max;
    // Until a worker has begun, an answer in one piece can still have the status of its error.
    return begun_ || head_sent_ ? config.keep_alive_interval : config.whole_silence_max;
  }

  HttpReply WithId(HttpReply reply) const {
    reply.headers.emplace_back("x-request-id", request_id_);
    return reply;
  }

  void SendHead() {
    if (std::exchange(head_sent_, true)) return;
    HttpReply head;
    if (stream_) head.content_type = "text/event-stream; charset=utf-8";
    head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    exchange_->BeginStream(WithId(std::move(head)));
  }

  void SendOpening() {
    if (!std::exchange(opening_sent_, true)) Write(stream_->Opening());
  }

  void Write(std::string_view data) {
    if (data.empty()) return;
    last_write_at_ = api_.core_.clock().Now();
    exchange_->Write(data);
  }

  void Count(int status) {
    api_.core_.metrics().RequestFinished(route_.path, status, api_.core_.clock().Now() - begun_at_);
  }

  void EndWith(HttpReply reply) {
    Count(reply.status);
    exchange_->SetObserver(nullptr);
    exchange_->Reply(WithId(std::move(reply)));
    api_.Forget(*this);
  }

  void EndStream(int status) {
    Count(status);
    exchange_->SetObserver(nullptr);
    const bool began_as_good = whole_ != nullptr && status != 200;
    began_as_good ? exchange_->EndAndClose() : exchange_->End();
    api_.Forget(*this);
  }

  HttpApi& api_;
  const Route& route_;
  const std::string request_id_;
  const std::shared_ptr<HttpExchange> exchange_;
  const absl::Time begun_at_;
  absl::Time last_write_at_;
  std::unique_ptr<StreamAnswer> stream_;
  std::unique_ptr<WholeAnswer> whole_;
  std::unique_ptr<RunningRequest> running_;
  bool begun_ = false;  // by a worker
  bool head_sent_ = false;
  bool opening_sent_ = false;
  bool paused_ = false;
  const std::shared_ptr<int> alive_ = std::make_shared<int>(0);  // for answers that come later
};

HttpApi::HttpApi(HttpApiConfig config, const KeyRing& keys, RequestCore& core)
    : config_(config), keys_(keys), core_(core), sessions_(core) {}
HttpApi::~HttpApi() = default;

void HttpApi::Tick() {
  const absl::Time now = core_.clock().Now();
  for (const auto& [key, call] : calls_) call->Tick(now);
}

void HttpApi::Forget(Call& call) { calls_.erase(&call); }

HttpReply HttpApi::TransportError(int status, const std::string& why, const std::string& x_request_id) {
  ApiError error = status == 503 ? Overloaded() : ApiError{};
  error.http_status = status;
  error.message = why;
  core_.metrics().RequestFinished("none", status, absl::ZeroDuration());
  HttpReply reply = ErrorReply(error);
  reply.headers.emplace_back("x-request-id", RequestIdOf(x_request_id));
  return reply;
}

std::optional<HttpReply> HttpApi::OnHeader(const HttpRequest& request) {
  const Route* route = FindRoute(request.method, request.path);
  const auto refuse = [&](const ApiError& error) {
    core_.metrics().RequestFinished(route != nullptr ? route->path : "none", error.http_status, absl::ZeroDuration());
    HttpReply reply = ErrorReply(error);
    reply.headers.emplace_back("x-request-id", RequestIdOf(request));
    if (error.http_status == 405) reply.headers.emplace_back("Allow", MethodsOf(request.path));
    return reply;
  };
  // Deny by default: what needs no key is named in the table, and a path outside it needs one to be told so.
  if (route == nullptr || !route->exempt) {
    if (keys_.Authenticate(request.authorization, request.x_api_key) == nullptr) return refuse(Unauthenticated());
  }
  if (route != nullptr) return std::nullopt;
  ApiError error;
  const bool known = !MethodsOf(request.path).empty();
  error.http_status = known ? 405 : 404;
  error.code = known ? "method_not_allowed" : "not_found";
  error.message = known ? "this path does not take this method" : "there is nothing at this path";
  return refuse(error);
}

void HttpApi::OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const Route* route = FindRoute(request.method, request.path);
  const Tenant* tenant = keys_.Authenticate(request.authorization, request.x_api_key);
  switch (route->kind) {
    case Kind::kChat:
    case Kind::kCompletions: {
      Call& call = NewCall(*route, request, std::move(exchange));
      return call.Start(*tenant, std::move(request.body), std::move(request.x_session));
    }
    case Kind::kSessions:
    case Kind::kSession:
    case Kind::kDropSession:
    case Kind::kSessionAction:
    case Kind::kDropCache:
      return OnSession(*route, std::move(request), exchange, *tenant);
    default:
      return ReplyToGet(*route, request, *exchange);
  }
}

HttpApi::Call& HttpApi::NewCall(const Route& route, const HttpRequest& request,
                                std::shared_ptr<HttpExchange> exchange) {
  auto call = std::make_unique<Call>(*this, route, RequestIdOf(request), std::move(exchange));
  Call& made = *call;
  calls_.emplace(&made, std::move(call));
  return made;
}

void HttpApi::OnSession(const Route& route, HttpRequest request, const std::shared_ptr<HttpExchange>& exchange,
                        const Tenant& tenant) {
  const absl::Time begun_at = core_.clock().Now();
  auto reply = [this, &route, exchange, begun_at, request_id = RequestIdOf(request)](HttpReply answer) {
    core_.metrics().RequestFinished(route.path, answer.status, core_.clock().Now() - begun_at);
    answer.headers.emplace_back("x-request-id", request_id);
    exchange->Reply(std::move(answer));
  };
  if (const auto error = core_.CheckStarted()) return reply(ErrorReply(*error));
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
  NewCall(route, request, exchange).Resume(tenant, id, request.body);
}

void HttpApi::ReplyToGet(const Route& route, const HttpRequest& request, HttpExchange& exchange) {
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
  core_.metrics().RequestFinished(route.path, reply.status, absl::ZeroDuration());
  reply.headers.emplace_back("x-request-id", RequestIdOf(request));
  exchange.Reply(std::move(reply));
}

}  // namespace longshelf::router
