#include "router/request_core.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace asio = boost::asio;

struct RunningRequest::State {
  State(RequestCore& owner, RequestSink& request_sink, std::string id)
      : core(owner), sink(&request_sink), request_id(std::move(id)) {
    ++core.n_running_;
  }
  ~State() { --core.n_running_; }

  RequestCore& core;
  RequestSink* sink;  // null once the handle is gone
  const std::string request_id;
  std::shared_ptr<AnswerRecorder> recorder;  // of a session; the completion tells it of its end
  std::unique_ptr<Completion> completion;
  KeyMeters::Use use;
  uint64_t n_prompt_tokens = 0;
  bool paused = false;
};

RunningRequest::~RunningRequest() {
  state_->sink = nullptr;
  state_->use.Charge(n_output_tokens(), state_->core.clock().Now());
  state_->completion.reset();
  state_->use = {};
}
void RunningRequest::Pause() {
  state_->paused = true;
  if (state_->completion) state_->completion->Pause();
}
bool RunningRequest::is_placed() const { return state_->completion != nullptr && state_->completion->is_placed(); }
void RunningRequest::Resume() {
  state_->paused = false;
  if (state_->completion) state_->completion->Resume();
}

uint64_t RunningRequest::n_prompt_tokens() const { return state_->n_prompt_tokens; }
uint64_t RunningRequest::n_output_tokens() const {
  return state_->completion == nullptr ? 0 : state_->completion->n_output_tokens();
}

RequestCore::RequestCore(RequestCoreConfig config, const ServedModel& model, Clock& clock, RouterMetrics& metrics,
                         Dispatcher& dispatcher, Sessions& sessions, Namespaces* namespaces, asio::io_context& loop)
    : config_(std::move(config)),
      model_(model),
      clock_(clock),
      metrics_(metrics),
      dispatcher_(dispatcher),
      sessions_(sessions),
      namespaces_(namespaces),
      loop_(loop),
      meters_(metrics),
      seeds_(std::random_device{}()),
      pool_({.n_threads = config_.n_prepare_threads,
             .n_waiting_max = config_.n_preparing_max,
             .n_running_bytes_max = config_.preparing_bytes_max},
            loop) {}

RequestCore::~RequestCore() = default;

std::string RequestCore::system_fingerprint() const {
  constexpr size_t kBytes = 6;  // twelve digits tell models apart
  const auto& worker = dispatcher_.model();
  if (!worker) return "";
  const absl::string_view bytes(reinterpret_cast<const char*>(worker->fingerprint.data()), kBytes);
  return absl::StrCat("fp_", absl::BytesToHexString(bytes));
}

uint32_t RequestCore::n_context_max() const {
  const auto& worker = dispatcher_.model();
  return worker ? std::min(worker->n_context_max, model_.n_context_max) : model_.n_context_max;
}

ParseLimits RequestCore::parse_limits() const { return ParseLimits{kSizeLimits, model_.vocab_size}; }

PrepareContext RequestCore::prepare_context(Tenant tenant) const {
  return PrepareContext{std::move(tenant), config_.tenant_secret,
                        namespaces_ == nullptr ? none_deleted_ : namespaces_->ids(), dispatcher_.model(), turns_};
}

std::optional<ApiError> RequestCore::CheckStarted() const {
  return has_namespaces() ? std::nullopt : std::optional(Starting());
}

void RequestCore::DeleteCache(const Tenant& tenant, std::string_view user_id,
                              std::function<void(std::variant<Namespaces::Deleted, ApiError>)> done) {
  if (namespaces_ == nullptr) return done(NoSessionStore());
  if (const auto error = CheckUserId(user_id)) return done(*error);
  if (const auto error = CheckStarted()) return done(*error);
  // Without a user it is all the tenant's, whatever the salt of the key.
  namespaces_->Delete(NamespaceName(user_id.empty() ? Tenant{tenant.name} : tenant, user_id), std::move(done));
}

void RequestCore::Finished(AuditRecord record) {
  record.ended_at = clock_.WallNow();
  record.elapsed = clock_.Now() - record.begun_at;
  if (!record.is_grpc) metrics_.RequestFinished(record.route, record.status, record.elapsed);
  if (audit_log_ != nullptr) audit_log_->Write(record);
}

std::unique_ptr<RunningRequest> RequestCore::Run(Parse parse, Tenant tenant, std::string request_id, RequestSink& sink,
                                                 uint64_t n_bytes) {
  auto state = std::make_shared<RunningRequest::State>(*this, sink, std::move(request_id));
  const auto refuse = [&](ApiError error) {
    asio::post(loop_, [state, error = std::move(error)] {
      if (state->sink != nullptr) state->sink->OnError(error);
    });
  };
  if (draining_ || !has_namespaces()) {
    refuse(draining_ ? Draining() : Starting());
    return std::make_unique<RunningRequest>(std::move(state));
  }
  auto use = meters_.Begin(tenant.key, clock_.Now());
  if (auto* error = std::get_if<ApiError>(&use)) {
    refuse(std::move(*error));
    return std::make_unique<RunningRequest>(std::move(state));
  }
  state->use = std::get<KeyMeters::Use>(std::move(use));
  using Result = std::variant<PreparedRequest, ApiError>;
  auto result = std::make_shared<Result>(ApiError{});
  PrepareJob job{tenant.name, n_bytes, nullptr, [this, state, result] { OnPrepared(state, std::move(*result)); }};
  job.work = [this, parse = std::move(parse), context = prepare_context(std::move(tenant)), result]() mutable {
    *result = PrepareParsed(model_, context, parse());
  };
  if (!RunOnPool(std::move(job))) refuse(Overloaded());
  return std::make_unique<RunningRequest>(std::move(state));
}

void RequestCore::OnPrepared(const std::shared_ptr<RunningRequest::State>& state,
                             std::variant<PreparedRequest, ApiError> result) {
  if (state->sink == nullptr) return;
  if (const auto* error = std::get_if<ApiError>(&result)) return state->sink->OnError(*error);
  const ApiRequest& request = std::get<PreparedRequest>(result).request;
  const bool has_session = !request.session.empty();
  if (request.park.has_value() && !sessions_.has_store()) return state->sink->OnError(NoSessionStore());
  state->completion =
      std::make_unique<Completion>(dispatcher_, model_, clock_, metrics_, std::move(std::get<PreparedRequest>(result)),
                                   state->request_id, seeds_(), *state->sink);
  const PreparedRequest& prepared = state->completion->prepared();
  for (const PreparedPrompt& prompt : prepared.prompts) state->n_prompt_tokens += prompt.tokens->size();
  state->sink->OnPrepared(prepared);
  if (state->sink == nullptr) return;
  if (const auto error = state->use.CheckPrompt(state->n_prompt_tokens, clock_.Now())) {
    return state->sink->OnError(*error);
  }
  if (const auto error = state->completion->Start()) return state->sink->OnError(*error);
  state->use.Charge(state->n_prompt_tokens, clock_.Now());
  // Only what was started takes the place of the session's last answer.
  if (has_session) {
    state->recorder = sessions_.Begin(*state->completion, state->request_id);
    state->completion->RecordTo(*state->recorder);
  }
  if (state->completion->begun_is_all()) {
    asio::post(loop_, [state] {
      if (state->completion != nullptr) state->completion->EndBegun();
    });
  }
  if (state->paused) state->completion->Pause();
}

}  // namespace longshelf::router
