#include "stream_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "queue/worker_state.h"
#include "router/api_error.h"

namespace longshelf::router::internal {

WorkerRequest StreamState::NextRequest() {
  WorkerRequest request;
  request.request_id = spec.request_id;
  request.epoch = ++epoch_;
  request.prompt = spec.prompt;
  request.committed = committed_;
  request.max_tokens = spec.max_tokens;
  request.sampling = spec.sampling;
  request.stop_token_ids = spec.stop_token_ids;
  request.prompt_logprobs = spec.prompt_logprobs;
  if (spec.prompt_logprobs) request.n_prompt_scored = static_cast<uint32_t>(n_prompt_scored_);
  request.output_form = spec.output_form;
  request.tenant = spec.tenant;
  request.tier = spec.tier;
  request.namespace_id = spec.namespace_id;
  request.namespace_salt = spec.namespace_salt;
  return request;
}

void StreamState::Attach(size_t worker_number, std::unique_ptr<WorkerCall> call, uint64_t n_tokens_to_prefill) {
  phase = Phase::kRunning;
  is_heard = false;
  worker = worker_number;
  was_placed = true;
  suspicion.OnPlaced();
  n_tokens_queued = n_tokens_to_prefill;
  last_event = dispatcher_.clock_.Now();
  call_ = std::move(call);
  outstanding_ = false;
  RequestNext();
}

void StreamState::RequestNext() {
  if (paused_ || outstanding_ || call_ == nullptr) return;
  outstanding_ = true;
  call_->RequestNext();
}

void StreamState::Pause() {
  if (std::exchange(paused_, true) || phase != Phase::kQueued) return;
  dispatcher_.OnPausedInQueue(*this);
}

void StreamState::Resume() {
  if (!std::exchange(paused_, false)) return;
  last_event = dispatcher_.clock_.Now();  // the silence was ours
  if (phase == Phase::kQueued) return dispatcher_.OnResumedInQueue(*this);
  RequestNext();
}

void StreamState::Abandon() {
  observer_ = nullptr;
  if (phase != Phase::kDone) dispatcher_.Remove(*this);
}

void StreamState::Fail(const absl::Status& status) {
  dispatcher_.Remove(*this);
  if (StreamObserver* observer = std::exchange(observer_, nullptr)) observer->OnFailed(status);
}

void StreamState::Finish(FinishReason reason, const DraftTokens& drafts) {
  dispatcher_.OnAnswer(*this);
  dispatcher_.Remove(*this);
  if (StreamObserver* observer = std::exchange(observer_, nullptr)) observer->OnFinished(reason, drafts);
}

absl::Status StreamState::NoWorkers() const { return NoWorkersStatus(last_words); }

bool StreamState::FinishIfComplete() {
  if (spec.max_tokens == 0 && !is_scoring()) {
    Finish(FinishReason::kLength, {});
    return true;
  }
  if (committed_.empty()) return false;
  const auto& stops = spec.stop_token_ids;
  if (std::find(stops.begin(), stops.end(), committed_.back()) != stops.end()) {
    Finish(FinishReason::kStop, {});
    return true;
  }
  if (committed_.size() >= spec.max_tokens) {
    Finish(FinishReason::kLength, {});
    return true;
  }
  return false;
}

void StreamState::OnEvent(WorkerEvent event) {
  const auto self = shared_from_this();  // an observer may drop the stream from inside a callback
  outstanding_ = false;
  if (phase != Phase::kRunning || observer_ == nullptr) return;
  const bool was_suspect = suspicion.is_suspect();
  last_event = dispatcher_.clock_.Now();
  if (event.epoch == epoch_) {
    waiting_since = absl::InfiniteFuture();
    if (!std::exchange(is_heard, true)) dispatcher_.workers_[worker].breaker.OnSuccess();
    if (const auto* started = std::get_if<StreamStarted>(&event.body)) {
      const uint32_t n_cached = started->n_cached_local + started->n_cached_store;
      OnRead(started->n_prompt_tokens - std::min(n_cached, started->n_prompt_tokens));
      if (!has_output()) observer_->OnStarted(*started);
    } else if (const auto* progress = std::get_if<PrefillProgress>(&event.body)) {
      OnRead(progress->n_total - std::min(progress->n_done, progress->n_total));
      observer_->OnProgress(*progress);
    } else if (auto* scores = std::get_if<PromptLogprobs>(&event.body)) {
      OnPromptLogprobs(std::move(*scores));
    } else if (auto* token = std::get_if<OutputToken>(&event.body)) {
      OnToken(std::move(*token));
    } else if (const auto* finished = std::get_if<WorkerFinished>(&event.body)) {
      if (finished->reason == FinishReason::kCancelled) {
        // We did not ask for it: the worker is giving its sequences up.
        dispatcher_.OnAttemptEnded(*this, absl::UnavailableError("the worker cancelled the sequence"));
      } else if (is_scoring()) {
        dispatcher_.OnAttemptEnded(*this, absl::DataLossError("the worker left prompt tokens out"));
      } else {
        Finish(finished->reason, finished->drafts);
      }
      return;
    }
  } else {
    dispatcher_.metrics_.StaleEvent();
  }
  if (phase == Phase::kRunning) RequestNext();
  // Other suspects may wait for this place.
  if (was_suspect && !suspicion.is_suspect()) dispatcher_.PumpQueue();
}

void StreamState::OnPromptLogprobs(PromptLogprobs scores) {
  const size_t n_known = n_prompt_scored_ - std::min<size_t>(scores.first, n_prompt_scored_);
  if (n_known >= scores.tokens.size() || !is_scoring()) {
    dispatcher_.metrics_.StaleEvent();
    return;
  }
  if (scores.first > n_prompt_scored_ || scores.first + scores.tokens.size() > spec.prompt->size()) {
    dispatcher_.OnAttemptEnded(*this, absl::DataLossError("the worker skipped prompt tokens, or made some up"));
    return;
  }
  scores.tokens.erase(scores.tokens.begin(), scores.tokens.begin() + static_cast<std::ptrdiff_t>(n_known));
  scores.first = static_cast<uint32_t>(n_prompt_scored_);
  n_prompt_scored_ += scores.tokens.size();
  observer_->OnPromptLogprobs(scores);
}

void StreamState::OnRead(uint64_t n_left) {
  const uint64_t n_read = n_tokens_queued - std::min(n_tokens_queued, n_left);
  n_tokens_queued -= n_read;
  dispatcher_.workers_[worker].n_tokens_queued -= n_read;
}

void StreamState::OnToken(OutputToken token) {
  if (token.index < committed_.size()) {
    dispatcher_.metrics_.StaleEvent();
    return;
  }
  if (token.index > committed_.size() || is_scoring()) {
    dispatcher_.OnAttemptEnded(*this, absl::DataLossError("the worker skipped a token index, or prompt tokens"));
    return;
  }
  const bool was_reading = dispatcher_.workers_[worker].reading.erase(this) > 0;
  OnRead(0);
  if (!has_output() && std::exchange(counted_as_retrying, false)) --dispatcher_.n_retrying_;
  suspicion.OnToken();
  Backlog::Charge(*this, 1);
  committed_.push_back(token.token);
  observer_->OnToken(token);
  // Its worker can read somebody else's prompt now.
  if (was_reading) dispatcher_.PumpQueue();
}

void StreamState::OnClosed(const absl::Status& status) {
  const auto self = shared_from_this();
  if (phase != Phase::kRunning) return;
  dispatcher_.OnAttemptEnded(*this, status.ok() ? absl::UnavailableError("the worker ended the call early") : status);
}

}  // namespace longshelf::router::internal
