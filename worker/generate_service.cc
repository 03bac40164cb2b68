#include "generate_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "proto/grpc_status.h"

namespace longshelf::worker {
namespace {

// What a waiting event holds, about.
size_t BufferedBytes(const engine::SequenceEvent& event) {
  if (const auto* scores = std::get_if<engine::PromptLogprobs>(&event)) {
    size_t n_bytes = sizeof event;
    for (const engine::ScoredToken& scored : scores->tokens) {
      n_bytes += sizeof scored + scored.top.size() * sizeof(engine::TokenLogprob);
    }
    return n_bytes;
  }
  const auto* output = std::get_if<engine::OutputToken>(&event);
  if (output == nullptr) return sizeof event;
  return sizeof event + output->token.top.size() * sizeof(engine::TokenLogprob) +
         output->token.logits.size() * sizeof(float);
}

}  // namespace

grpc::ServerWriteReactor<v1::WorkerGenerateEvent>* GenerateStream::Start(ServiceCore& core,
                                                                         grpc::CallbackServerContext& context,
                                                                         const v1::WorkerGenerateRequest& request) {
  auto stream = std::make_shared<GenerateStream>(core, context);
  stream->self_ = stream;
  stream->Begin(request);
  return stream.get();
}

GenerateStream::GenerateStream(ServiceCore& core, grpc::CallbackServerContext& context)
    : core_(core),
      context_(context),
      id_(core.next_sequence_id.fetch_add(1)),
      accepted_at_(core.clock.Now()),
      restore_cancelled_(std::make_shared<std::atomic<bool>>(false)) {}

void GenerateStream::Begin(const v1::WorkerGenerateRequest& request) {
  const size_t n_open = core_.n_streams.fetch_add(1) + 1;
  epoch_ = request.epoch();
  absl::Status status;
  const absl::Status broken = core_.calls.Add(shared_from_this());
  if (const grpc::Status allowed = core_.Authorize(context_); !allowed.ok()) {
    status = proto::FromGrpc(allowed);
  } else if (!broken.ok()) {
    status = broken;
  } else if (core_.draining.load()) {
    status = absl::UnavailableError("this worker is draining; use another one");
  } else if (n_open > core_.options.n_streams_max) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("this worker has ", core_.options.n_streams_max, " open streams, the limit; try again later"));
  } else {
    status = CheckGenerate(request, core_.limits);
    if (status.ok()) status = ReadOutputForm(request);
  }
  if (!status.ok()) {
    EndWith(status, "refused");
    return;
  }
  engine::SequenceRequest converted = ToSequenceRequest(request);
  converted.output_spec = std::move(request_.output_spec);
  converted.end_token_ids = std::move(request_.end_token_ids);
  request_ = std::move(converted);
  // Here, on the caller's thread: a million tokens take longer to hash than a decode step lasts.
  request_.prefix_keys =
      engine::FullBlockKeys(core_.hasher, request_.namespace_salt, request_.prompt, request_.committed);
  if (core_.prefixes == nullptr || request.no_cache_read() || request_.wants_prompt_scores()) {
    Submit({});
    return;
  }
  RestoreRequest wanted;
  wanted.tokens = request_.prompt;
  wanted.tokens.insert(wanted.tokens.end(), request_.committed.begin(), request_.committed.end());
  wanted.namespace_salt = request_.namespace_salt;
  wanted.prefix_keys = request_.prefix_keys;
  wanted.cancelled = restore_cancelled_;
  core_.prefixes->Restore(std::move(wanted),
                          [self = shared_from_this()](RestoreOutcome outcome) { self->Submit(std::move(outcome)); });
}

// Compiled here, on the caller's thread, so that what cannot be enforced is refused before it takes a place; the shard
// of this process has it then.
absl::Status GenerateStream::ReadOutputForm(const v1::WorkerGenerateRequest& request) {
  ASSIGN_OR_RETURN(request_.output_spec, ToOutputSpec(request));
  if (request_.output_spec.empty()) return absl::OkStatus();
  grammar::ConstraintCache* constraints = core_.options.constraints.get();
  if (constraints == nullptr) {
    return absl::FailedPreconditionError("output_form is refused: this worker has no tokenizer.json");
  }
  const absl::Status compiled = constraints->Get(request_.output_spec).status();
  if (!compiled.ok()) return Annotate(compiled, "output_form");
  // Of the tokens to stop at, those that stand in no text.
  for (const uint32_t token : request.stop_token_ids()) {
    if (constraints->vocabulary().SymbolsOf(token).empty()) request_.end_token_ids.push_back(token);
  }
  return absl::OkStatus();
}

void GenerateStream::Submit(RestoreOutcome outcome) {
  absl::Status refused;
  {
    std::lock_guard lock(mutex_);
    // Posting under the lock keeps a Cancel behind its Submit.
    if (peer_gone_ || finish_started_) return;
    request_.id = id_;
    request_.sink = shared_from_this();
    request_.feed = std::move(outcome.feed);
    request_.n_shared_elsewhere = outcome.n_shared;
    request_.store_miss_reason = std::move(outcome.miss_reason);
    engine::EngineMessage message = engine::Submit{std::move(request_)};
    submitted_ = core_.engine_inbox.Post(std::move(message));
    if (!submitted_) {
      refused = core_.engine_inbox.closed()
                    ? absl::UnavailableError("this worker is shutting down; use another one")
                    : absl::ResourceExhaustedError("the engine's inbox is full; try again later");
    }
  }
  if (!refused.ok()) EndWith(refused, "refused");
}

void GenerateStream::EndWith(const absl::Status& status, std::string_view result) {
  Action action;
  {
    std::lock_guard lock(mutex_);
    if (terminal_.has_value()) return;
    terminal_ = proto::ToGrpc(status);
    MarkEndedLocked(result);
    action = NextLocked();
  }
  Do(action);
}

void GenerateStream::MarkEndedLocked(std::string_view result) {
  if (std::exchange(ended_, true)) return;
  core_.metrics.StreamEnded(result);
}

void GenerateStream::LosePeerLocked() {
  peer_gone_ = true;
  cancel_wanted_ = true;
  buffer_.clear();
  MarkEndedLocked("cancelled");
}

void GenerateStream::TimeTokenLocked() {
  const absl::Time now = core_.clock.Now();
  if (last_token_at_.has_value()) {
    core_.metrics.NextToken(now - *last_token_at_);
  } else {
    core_.metrics.FirstToken(now - accepted_at_);
  }
  last_token_at_ = now;
}

// The engine reports every step; readers want a few reports a second.
bool GenerateStream::IsProgressDueLocked() {
  const absl::Time now = core_.clock.Now();
  if (now < next_progress_at_) return false;
  next_progress_at_ = now + core_.options.progress_interval;
  return true;
}

void GenerateStream::OnEvent(engine::SequenceEvent event) {
  bool post = false;
  {
    std::lock_guard lock(mutex_);
    std::optional<engine::Finished> finished;
    if (const auto* end = std::get_if<engine::Finished>(&event)) finished = *end;
    const auto* failed = std::get_if<engine::Failed>(&event);
    if (finished.has_value() || failed != nullptr) engine_ended_ = true;
    if (peer_gone_ || too_slow_ || terminal_.has_value()) return;
    if (std::holds_alternative<engine::PrefillProgress>(event) && !IsProgressDueLocked()) return;
    if (const auto* started = std::get_if<engine::Started>(&event)) core_.metrics.StreamStarted(*started);
    if (std::holds_alternative<engine::OutputToken>(event)) TimeTokenLocked();
    if (failed != nullptr) {
      terminal_ = proto::ToGrpc(failed->status);
      MarkEndedLocked("failed");
    } else {
      buffered_bytes_ += BufferedBytes(event);
      buffer_.push_back(std::move(event));
    }
    if (finished.has_value()) {
      terminal_ = grpc::Status::OK;
      MarkEndedLocked(finished->reason == engine::FinishReason::kStop     ? "stop"
                      : finished->reason == engine::FinishReason::kLength ? "length"
                                                                          : "cancelled");
    }
    if (buffered_bytes_ > core_.options.stream_buffer_bytes &&
        buffer_.size() > core_.options.stream_buffer_events_min) {
      too_slow_ = true;
      cancel_wanted_ = true;
      buffer_.clear();
      terminal_.reset();
      MarkEndedLocked("slow_client");
    }
    post = !std::exchange(pump_posted_, true);
  }
  if (post) core_.pump.Post(shared_from_this());
}

void GenerateStream::Pump() {
  Action action;
  {
    std::lock_guard lock(mutex_);
    pump_posted_ = false;
    action = NextLocked();
  }
  Do(action);
}

GenerateStream::Action GenerateStream::NextLocked() {
  Action action;
  if (cancel_wanted_ && submitted_ && !engine_ended_ && !std::exchange(cancel_sent_, true)) {
    action.cancel_sequence = true;
  }
  if (finish_started_) return action;
  if (too_slow_ && !peer_gone_) {
    // The write in flight waits for a reader that does not read; only cancelling the call ends it.
    if (write_in_flight_) {
      // Under the lock: once Finish has begun, the call and its context may be gone at any time. gRPC tells of it, and
      // of the write, on threads of its own.
      if (!std::exchange(try_cancelled_, true)) context_.TryCancel();
      return action;
    }
    action.finish = proto::ToGrpc(absl::ResourceExhaustedError(
        absl::StrCat("the client did not read and ", core_.options.stream_buffer_bytes, " bytes were waiting")));
  } else if (write_in_flight_) {
    return action;
  } else if (peer_gone_) {
    action.finish = grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
  } else if (!buffer_.empty()) {
    buffered_bytes_ -= BufferedBytes(buffer_.front());
    writing_ = ToProto(epoch_, buffer_.front());
    buffer_.pop_front();
    write_in_flight_ = true;
    action.write = true;
  } else if (terminal_.has_value()) {
    action.finish = *terminal_;
  }
  if (action.finish.has_value()) finish_started_ = true;
  return action;
}

void GenerateStream::Do(const Action& action) {
  if (action.cancel_sequence) core_.pump.CancelSequence(id_);
  if (action.write) StartWrite(&writing_);
  if (action.finish.has_value()) Finish(*action.finish);
}

void GenerateStream::OnWriteDone(bool ok) {
  Action action;
  {
    std::lock_guard lock(mutex_);
    write_in_flight_ = false;
    if (!ok) LosePeerLocked();
    action = NextLocked();
  }
  Do(action);
}

void GenerateStream::OnCancel() {
  restore_cancelled_->store(true);
  Action action;
  {
    std::lock_guard lock(mutex_);
    LosePeerLocked();
    action = NextLocked();
  }
  Do(action);
}

void GenerateStream::OnDone() {
  core_.calls.Remove(this);
  core_.StreamClosed();
  // The engine, the pump or the bridge may hold this a little longer.
  const std::shared_ptr<GenerateStream> last = std::move(self_);
}

}  // namespace longshelf::worker
