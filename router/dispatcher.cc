#include "router/dispatcher.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "router/api_error.h"
#include "router/suspicion.h"
#include "stream_state.h"

namespace longshelf::router {

using internal::StreamState;

namespace {

constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

bool IsWorkersFault(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

// Of a watch, or what a group says itself. What a drained, refused or reconfigured worker ends with is none of these.
bool IsSuddenEnd(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

Stream::~Stream() { state_->Abandon(); }
void Stream::Pause() { state_->Pause(); }
void Stream::Resume() { state_->Resume(); }
std::optional<size_t> Stream::worker() const {
  return state_->was_placed ? std::optional<size_t>(state_->worker) : std::nullopt;
}

Dispatcher::Dispatcher(const DispatcherConfig& config, Clock& clock, RouterMetrics& metrics,
                       std::vector<std::unique_ptr<WorkerLink>> links)
    : config_(config), clock_(clock), metrics_(metrics) {
  workers_.reserve(links.size());
  for (auto& link : links) {
    workers_.emplace_back();
    workers_.back().link = std::move(link);
  }
}

Dispatcher::~Dispatcher() { Stop(); }

void Dispatcher::Start() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    metrics_.WorkerUp(i, false);
    workers_[i].link->Start(i, *this);
  }
}

void Dispatcher::Stop() {
  // Calls must end before the links they were made through.
  for (const StatePtr& stream : running_) stream->EndAttempt();
  for (Worker& w : workers_) {
    w.ready = false;
    w.link.reset();
  }
}

size_t Dispatcher::n_ready() const {
  return static_cast<size_t>(
      std::count_if(workers_.begin(), workers_.end(), [](const Worker& w) { return w.ready && !w.load.draining; }));
}

absl::StatusOr<std::unique_ptr<Stream>> Dispatcher::Generate(StreamSpec spec, StreamObserver& observer) {
  LONGSHELF_CHECK(spec.prompt != nullptr && !spec.prompt->empty());
  LONGSHELF_CHECK(spec.committed.empty() || spec.max_tokens > spec.committed.size());
  if (IsOfAnotherModel(spec)) return OtherModelStatus();
  if (n_wanting() >= config_.queue_capacity) return OverloadedStatus();
  auto state = std::make_shared<StreamState>(*this, std::move(spec), observer);
  ++n_streams_;
  if (has_line() || !Place(*state)) Enqueue(state, config_.queue_timeout, absl::ZeroDuration());
  return std::make_unique<Stream>(std::move(state));
}

size_t Dispatcher::n_wanting() const {
  return static_cast<size_t>(
      std::count_if(queue_.begin(), queue_.end(), [](const StatePtr& stream) { return !stream->paused(); }));
}

bool Dispatcher::has_line() const {
  return std::any_of(queue_.begin(), queue_.end(),
                     [](const StatePtr& stream) { return !stream->paused() && !stream->suspicion.is_suspect(); });
}

bool Dispatcher::IsOfAnotherModel(const StreamSpec& spec) const {
  return model_.has_value() && spec.begun_by.has_value() && *spec.begun_by != model_->fingerprint;
}

void Dispatcher::Park(size_t worker, const ParkOrder& order, std::function<void(absl::StatusOr<ParkedState>)> done) {
  if (worker >= workers_.size() || !workers_[worker].ready) {
    return done(absl::UnavailableError("the worker that computed it is not up"));
  }
  workers_[worker].link->Park(order, std::move(done));
}

std::string Dispatcher::RefusalOf(const WorkerInfo& info) const {
  if (info.block_tokens == 0 || info.vocab_size == 0 || info.n_context_max == 0) return "its status is incomplete";
  if (!model_) return "";
  if (info.fingerprint != model_->fingerprint) return "its model fingerprint differs from the first worker's";
  if (info.vocab_size != model_->vocab_size) return "its vocabulary differs from the first worker's";
  if (info.block_tokens != model_->block_tokens) return "its block size differs from the first worker's";
  return "";
}

bool Dispatcher::OnWorkerUp(size_t worker, const WorkerInfo& info) {
  // A model nobody serves any more and no stream depends on may be replaced by the next one.
  if (model_ && n_streams_ == 0 &&
      std::none_of(workers_.begin(), workers_.end(), [](const Worker& w) { return w.ready; })) {
    model_.reset();
  }
  if (const std::string refusal = RefusalOf(info); !refusal.empty()) {
    spdlog::warn("worker {} refused: {}", worker, refusal);
    metrics_.WorkerRefused();
    OnWorkerDown(worker, absl::FailedPreconditionError(refusal));
    return false;
  }
  if (!model_) model_ = info;
  Worker& w = workers_[worker];
  if (w.info.IsSameGroup(info)) ForgetDeath(worker);
  w.info = info;
  w.ready = true;
  w.load = {};
  w.index.Clear();
  metrics_.WorkerUp(worker, true);
  spdlog::info("worker {} is up: model {}, context {}", worker, info.model_name, info.n_context_max);
  PumpQueue();
  return true;
}

void Dispatcher::OnWorkerUpdate(size_t worker, const WorkerUpdate& update) {
  Worker& w = workers_[worker];
  if (!w.ready) return;
  if (update.snapshot) w.index.Clear();
  for (const IndexedCheckpoint& checkpoint : update.gained) w.index.Add(checkpoint);
  for (const BlockKey& key : update.lost) w.index.Remove(key);
  if (update.load.n_steps != w.load.n_steps) w.last_step_at = clock_.Now();
  w.load = update.load;
  PumpQueue();
}

void Dispatcher::OnWorkerDown(size_t worker, const absl::Status& why) {
  Worker& w = workers_[worker];
  const bool died = w.ready && !w.load.draining && IsSuddenEnd(why.code());
  if (w.ready) spdlog::warn("worker {} is gone: {}", worker, absl::StatusCodeToString(why.code()));
  w.ready = false;
  w.index.Clear();
  w.load = {};
  metrics_.WorkerUp(worker, false);
  if (died) OnDeath(worker, why);
}

void Dispatcher::OnDeath(size_t worker, const absl::Status& why) {
  metrics_.WorkerDied();
  workers_[worker].last_death = ++n_deaths_;
  unexplained_deaths_.Add(n_deaths_, clock_.Now());
  std::vector<StatePtr> present;
  std::vector<DeathWitness> witnesses;
  for (const StatePtr& stream : running_) {
    if (stream->worker != worker) continue;
    stream->suspicion.OnDeath(n_deaths_, clock_.Now());
    stream->last_words = IsGroupFailure(why) ? std::string(why.message()) : "";
    present.push_back(stream);
    witnesses.push_back({stream->request(), &stream->suspicion, unexplained_deaths_.HasOthers(stream->suspicion)});
  }
  spdlog::warn("worker {} died with {} stream(s)", worker, present.size());
  std::vector<StatePtr> blamed;
  for (const size_t i : FindBlamed(witnesses)) blamed.push_back(present[i]);
  Refuse(blamed);
}

void Dispatcher::Refuse(const std::vector<StatePtr>& blamed) {
  bool is_counted = false;
  for (const StatePtr& stream : blamed) {
    // One that fails may take the other choices of its request along.
    if (stream->phase == StreamState::Phase::kDone || stream->FinishIfComplete()) continue;
    spdlog::error("request {} is refused: {} worker(s) in a row died under it", stream->spec.request_id,
                  std::max(stream->suspicion.n_silent, stream->suspicion.n_early));
    for (const uint64_t death : stream->suspicion.deaths) unexplained_deaths_.Remove(death);
    if (!std::exchange(is_counted, true)) metrics_.RequestBlamed();
    stream->Fail(KillsWorkersStatus(stream->last_words));
  }
}

// It was only out of reach.
void Dispatcher::ForgetDeath(size_t worker) {
  const uint64_t death = std::exchange(workers_[worker].last_death, 0);
  if (death == 0) return;
  unexplained_deaths_.Remove(death);
  for (const StatePtr& stream : running_) stream->suspicion.OnSurvived(death);
  for (const StatePtr& stream : queue_) stream->suspicion.OnSurvived(death);
}

std::vector<bool> Dispatcher::WorkersWithSuspects() const {
  std::vector<bool> out(workers_.size());
  for (const StatePtr& stream : running_) {
    if (stream->suspicion.is_suspect()) out[stream->worker] = true;
  }
  return out;
}

// All of a suspected request in one place, and no other suspect there.
bool Dispatcher::IsToBeKeptFrom(size_t worker, const StreamState& stream) const {
  if (!stream.suspicion.is_suspect() || clock_.Now() - stream.suspicion.since >= config_.suspect_wait) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const StatePtr& other) {
    return other->suspicion.is_suspect() && workers_[other->worker].ready &&
           (other->worker == worker) == (other->request() != stream.request());
  });
}

WorkerCandidate Dispatcher::CandidateFor(size_t worker, const StreamState& stream) const {
  const Worker& w = workers_[worker];
  WorkerCandidate candidate;
  candidate.usable = w.ready && !w.load.draining && !stream.tried.contains(worker) &&
                     stream.spec.prompt->size() < w.info.n_context_max && !IsToBeKeptFrom(worker, stream);
  if (!candidate.usable) return candidate;
  // What tells of a prompt's tokens is computed whatever is held.
  if (!stream.is_scoring()) candidate.n_usable_prefix = w.index.UsablePrefix(stream.spec.keys, *stream.spec.prompt);
  // What a worker reported may be older than what we sent since; other routers' streams are only in the report.
  candidate.n_tokens_queued = std::max(w.load.n_tokens_queued, w.n_tokens_queued);
  candidate.n_streams = std::max(w.load.n_running + w.load.n_waiting, w.n_streams);
  candidate.n_streams_max = std::max<uint32_t>(1, w.load.n_sequences_max);
  candidate.last_pick = w.last_pick;
  return candidate;
}

bool Dispatcher::Place(StreamState& stream) {
  if (!model_) return false;
  if (stream.spec.keys.fingerprint != model_->fingerprint || stream.spec.keys.block_tokens != model_->block_tokens) {
    stream.spec.keys =
        MakePromptKeys(model_->fingerprint, stream.spec.namespace_salt, model_->block_tokens, *stream.spec.prompt);
  }
  std::vector<WorkerCandidate> candidates(workers_.size());
  const std::vector<bool> with_suspects = WorkersWithSuspects();
  for (size_t i = 0; i < workers_.size(); ++i) {
    candidates[i] = CandidateFor(i, stream);
    candidates[i].has_suspect = with_suspects[i];
  }
  const auto pick = PickWorker(candidates, stream.spec.prompt->size());
  if (!pick) return false;
  Worker& w = workers_[pick->worker];
  const uint64_t n_miss = stream.spec.prompt->size() - candidates[pick->worker].n_usable_prefix;
  w.last_pick = ++n_picks_;
  ++w.n_streams;
  const uint64_t n_queued = stream.has_output() ? 0 : n_miss;
  w.n_tokens_queued += n_queued;
  metrics_.Picked(PickReasonName(pick->reason));
  running_.insert(stream.shared_from_this());
  const WorkerRequest request = stream.NextRequest();
  stream.Attach(pick->worker, w.link->Generate(request, stream), n_queued);
  return true;
}

void Dispatcher::Enqueue(const StatePtr& stream, absl::Duration timeout, absl::Duration not_before) {
  const absl::Time now = clock_.Now();
  stream->phase = StreamState::Phase::kQueued;
  stream->waiting_since = std::min(stream->waiting_since, now);
  stream->deadline = stream->waiting_since + timeout;
  stream->not_before = now + not_before;
  queue_.push_back(stream);
  metrics_.QueueDepth(queue_.size());
}

// Its client reads again: from here on it waits for a worker, not for its client.
void Dispatcher::OnResumedInQueue(StreamState& stream) {
  stream.waiting_since = clock_.Now();
  stream.deadline = stream.waiting_since + config_.resume_timeout;
}

void Dispatcher::PumpQueue() {
  if (queue_.empty() || n_ready() == 0) return;
  const absl::Time now = clock_.Now();
  std::deque<StatePtr> waiting;
  std::swap(waiting, queue_);
  std::vector<StatePtr> strangers;
  for (StatePtr& stream : waiting) {
    if (stream->phase != StreamState::Phase::kQueued) continue;
    if (IsOfAnotherModel(stream->spec)) {
      strangers.push_back(std::move(stream));
      continue;
    }
    if (now >= stream->not_before && !stream->paused()) {
      stream->tried.clear();
      if (Place(*stream)) continue;
    }
    queue_.push_back(std::move(stream));
  }
  metrics_.QueueDepth(queue_.size());
  for (const StatePtr& stream : strangers) {
    if (stream->phase == StreamState::Phase::kQueued) stream->Fail(OtherModelStatus());
  }
}

void Dispatcher::ExpireQueue(absl::Time now) {
  std::vector<StatePtr> expired;
  for (const StatePtr& stream : queue_) {
    if (now >= stream->deadline && !stream->paused()) expired.push_back(stream);
  }
  const bool has_workers = n_ready() > 0;
  for (const StatePtr& stream : expired) {
    if (stream->phase == StreamState::Phase::kQueued) {
      stream->Fail(has_workers ? OverloadedStatus() : stream->NoWorkers());
    }
  }
}

void Dispatcher::LeaveStalledWorkers(absl::Time now) {
  std::vector<StatePtr> stalled;
  for (const StatePtr& stream : running_) {
    const absl::Time last_sign = std::max(stream->last_event, workers_[stream->worker].last_step_at);
    if (now - last_sign >= config_.stall_timeout) stalled.push_back(stream);
  }
  for (const StatePtr& stream : stalled) {
    if (stream->phase == StreamState::Phase::kRunning && !stream->paused()) {
      OnAttemptEnded(*stream, absl::UnavailableError("the worker is silent"));
    }
  }
}

void Dispatcher::Tick() {
  const absl::Time now = clock_.Now();
  PumpQueue();
  ExpireQueue(now);
  LeaveStalledWorkers(now);
}

bool Dispatcher::MayRetry(StreamState& stream, const absl::Status& status) {
  const bool is_full = status.code() == absl::StatusCode::kResourceExhausted;
  // Bounded by the queue's deadline: no worker has said anything of it since it waits.
  if (is_full && (!stream.has_output() || stream.waiting_since != absl::InfiniteFuture())) return true;
  if (!is_full && !IsWorkersFault(status.code())) return false;
  if (stream.has_output()) return ++stream.n_resumes <= config_.n_resumes_max;
  if (++stream.n_retries > config_.n_retries_max) return false;
  if (stream.counted_as_retrying) return true;
  const double budget =
      std::max<double>(config_.n_retries_free, config_.retry_budget_ratio * static_cast<double>(n_streams_));
  if (static_cast<double>(n_retrying_) >= budget) return false;
  stream.counted_as_retrying = true;
  ++n_retrying_;
  return true;
}

void Dispatcher::OnAttemptEnded(StreamState& stream, const absl::Status& status) {
  const StatePtr self = stream.shared_from_this();
  const size_t worker = stream.worker;
  // It says so on its streams before its watch has ended.
  if (IsGroupFailure(status)) {
    OnWorkerDown(worker, status);
    stream.last_words = std::string(status.message());
  }
  if (stream.phase == StreamState::Phase::kDone) return;
  ReleaseWorker(stream);
  if (stream.FinishIfComplete()) return;
  if (!MayRetry(stream, status)) {
    // All of its attempts ended so, but never was it the only suspect.
    const bool died_again = stream.suspicion.n_silent > 1 && IsWorkersFault(status.code());
    return died_again ? Refuse({self}) : stream.Fail(absl::IsUnavailable(status) ? stream.NoWorkers() : status);
  }
  if (status.code() != absl::StatusCode::kResourceExhausted) {
    stream.has_output() ? metrics_.Resumed() : metrics_.Retried();
  }
  stream.tried.insert(worker);
  stream.phase = StreamState::Phase::kQueued;
  // A stream whose client does not read needs no worker now.
  if (!stream.paused() && Place(stream)) return;
  Enqueue(self, stream.has_output() ? config_.resume_timeout : config_.queue_timeout,
          workers_[worker].ready ? kRetryDelay : absl::ZeroDuration());
}

void Dispatcher::ReleaseWorker(StreamState& stream) {
  if (stream.phase != StreamState::Phase::kRunning) return;
  Worker& w = workers_[stream.worker];
  --w.n_streams;
  w.n_tokens_queued -= stream.n_tokens_queued;
  stream.n_tokens_queued = 0;
  stream.EndAttempt();
  running_.erase(stream.shared_from_this());
}

void Dispatcher::Remove(StreamState& stream) {
  const StatePtr self = stream.shared_from_this();
  if (stream.phase == StreamState::Phase::kDone) return;
  if (stream.phase == StreamState::Phase::kRunning) ReleaseWorker(stream);
  if (stream.phase == StreamState::Phase::kQueued) {
    std::erase(queue_, self);
    metrics_.QueueDepth(queue_.size());
  }
  if (std::exchange(stream.counted_as_retrying, false)) --n_retrying_;
  stream.phase = StreamState::Phase::kDone;
  --n_streams_;
}

}  // namespace longshelf::router
