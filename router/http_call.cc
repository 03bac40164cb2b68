#include "http_call.h"

#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "api_forms.h"
#include "router/api_error.h"

namespace longshelf::router {
namespace {

// Unsent: a client that does not read needs no more news of its prompt. The next one says it all.
constexpr size_t kProgressBacklogBytes = 4096;

// A session that the header names, beside what the body says.
std::optional<ApiError> JoinSession(const std::string& session, const std::string& body, ApiRequest& request) {
  if (auto error = CheckSessionId(session)) return error;
  if (!request.session.empty() && request.session != session) {
    return InvalidField("session", "is not the one that the header x-longshelf-session names");
  }
  if (auto error = CheckFitsSession(request)) return error;
  request.session = session;
  if (request.body == nullptr) request.body = std::make_shared<const std::string>(body);
  return std::nullopt;
}

}  // namespace

HttpCall::HttpCall(const HttpApiConfig& config, RequestCore& core, const Route& route, AuditRecord record,
                   std::shared_ptr<HttpExchange> exchange, Forget forget)
    : config_(config),
      core_(core),
      route_(route),
      style_(StyleOf(route.path)),
      record_(std::move(record)),
      exchange_(std::move(exchange)),
      forget_(std::move(forget)),
      begun_at_(record_.begun_at),
      last_write_at_(begun_at_) {
  exchange_->SetObserver(this);
}

HttpCall::~HttpCall() { exchange_->SetObserver(nullptr); }

void HttpCall::Start(const Tenant& tenant, std::string body, std::string session,
                     std::shared_ptr<const void> body_share) {
  const uint64_t n_bytes = body.size();
  auto parse = [parse_body = ParserFor(route_, core_, tenant), body = std::move(body), session = std::move(session),
                body_share = std::move(body_share)]() -> std::variant<ApiRequest, ApiError> {
    auto parsed = parse_body(body);
    auto* request = std::get_if<ApiRequest>(&parsed);
    if (request == nullptr || session.empty()) return parsed;
    if (auto error = JoinSession(session, body, *request)) return *std::move(error);
    return parsed;
  };
  running_ = core_.Run(std::move(parse), tenant, request_id_, *this, n_bytes);
}

void HttpCall::Resume(const Tenant& tenant, const std::string& id, const std::string& body) {
  const auto options = ParseResumeBody(body, core_.parse_limits());
  if (const auto* error = std::get_if<ApiError>(&options)) return OnError(*error);
  const auto stream = std::get<std::optional<bool>>(options);
  core_.sessions().LoadUnfinished(
      tenant, id, [this, alive = std::weak_ptr<int>(alive_), tenant, stream](std::variant<Session, ApiError> loaded) {
        if (alive.expired()) return;
        if (const auto* error = std::get_if<ApiError>(&loaded)) return OnError(*error);
        auto parse = [session = std::get<Session>(std::move(loaded)), stream, limits = core_.parse_limits()] {
          return RequestToResume(session, stream, limits);
        };
        running_ = core_.Run(std::move(parse), tenant, request_id_, *this);
      });
}

void HttpCall::Tick(absl::Time now) {
  if (writer_ == nullptr || now - last_write_at_ < SilenceMax()) return;
  // While nobody is there to answer, or it waits for its turn and may be refused, the status is left open.
  const absl::Duration open_max = core_.has_workers() ? config_.turn_wait_max : config_.whole_silence_max;
  const bool is_likely = core_.has_workers() && running_->is_placed();
  if (!head_sent_ && is_stream() && !is_likely && now - begun_at_ < open_max) return;
  SendHead();
  Write(writer_->KeepAlive());
}

void HttpCall::OnPrepared(const PreparedRequest& prepared) {
  if (!core_.sessions().HasRoomFor(prepared)) return OnError(Overloaded());
  writer_ = MakeAnswerWriter(core_, prepared);
}

void HttpCall::OnBegun(const Usage& usage) {
  begun_ = true;
  writer_->AnsweredBy(core_.system_fingerprint(), usage);
  if (!is_stream()) return;
  SendHead();
  SendOpening();
}

void HttpCall::OnReplayed(uint32_t choice, const ChoiceDelta& delta) { writer_->Skip(choice, delta); }

void HttpCall::OnProgress(const PrefillProgress& progress) {
  if (!is_stream() || exchange_->unsent_bytes() > kProgressBacklogBytes) return;
  SendHead();
  Write(writer_->Progress(progress));
}

void HttpCall::OnDelta(uint32_t choice, const ChoiceDelta& delta) {
  if (is_stream()) {
    SendHead();
    SendOpening();
  }
  Write(writer_->Delta(choice, delta));
  if (exchange_->unsent_bytes() > config_.pause_above_bytes && !paused_) {
    paused_ = true;
    running_->Pause();
  }
}

void HttpCall::OnChoiceFinished(uint32_t choice, const ChoiceEnd& end) {
  // It may be ended before a worker has begun.
  if (is_stream()) {
    SendHead();
    SendOpening();
  }
  Write(writer_->Finished(choice, end));
}

void HttpCall::OnDone(const Usage& usage) {
  std::string last = writer_->Done(usage);
  if (!head_sent_) {
    HttpReply reply;
    reply.body = std::move(last);
    return EndWith(std::move(reply));
  }
  Write(last);
  EndStream(200);
}

void HttpCall::OnError(const ApiError& error) {
  if (!head_sent_) return EndWith(ErrorReply(error, style_));
  // The status is spent: only the body can tell.
  Write(writer_->Error(error));
  EndStream(error.http_status);
}

void HttpCall::OnClientGone() {
  constexpr int kClientClosedRequest = 499;
  Count(kClientClosedRequest);
  if (paused_) core_.metrics().SlowClientDropped();
  forget_(*this);
}

void HttpCall::OnDrained() {
  if (!std::exchange(paused_, false)) return;
  running_->Resume();
}

absl::Duration HttpCall::SilenceMax() const {
  if (is_stream()) return head_sent_ ? config_.keep_alive_interval : config_.head_delay_max;
  // Until a worker has begun, an answer in one piece can still have the status of its error.
  return begun_ || head_sent_ ? config_.keep_alive_interval : config_.whole_silence_max;
}

HttpReply HttpCall::WithId(HttpReply reply) const {
  AddRequestId(request_id_, style_, reply);
  return reply;
}

void HttpCall::SendHead() {
  if (std::exchange(head_sent_, true)) return;
  HttpReply head;
  if (is_stream()) head.content_type = "text/event-stream; charset=utf-8";
  head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  exchange_->BeginStream(WithId(std::move(head)));
}

void HttpCall::SendOpening() {
  if (!std::exchange(opening_sent_, true)) Write(writer_->Opening());
}

void HttpCall::Write(std::string_view data) {
  if (data.empty()) return;
  last_write_at_ = core_.clock().Now();
  exchange_->Write(data);
}

void HttpCall::Count(int status) {
  AuditRecord record = record_;
  record.status = status;
  if (running_ != nullptr) {
    record.n_prompt_tokens = running_->n_prompt_tokens();
    record.n_output_tokens = running_->n_output_tokens();
  }
  core_.Finished(std::move(record));
}

void HttpCall::EndWith(HttpReply reply) {
  Count(reply.status);
  exchange_->SetObserver(nullptr);
  exchange_->Reply(WithId(std::move(reply)));
  forget_(*this);
}

void HttpCall::EndStream(int status) {
  Count(status);
  exchange_->SetObserver(nullptr);
  const bool began_as_good = !is_stream() && status != 200;
  began_as_good ? exchange_->EndAndClose() : exchange_->End();
  forget_(*this);
}

}  // namespace longshelf::router
