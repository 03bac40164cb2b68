#include "router/dispatcher.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "queue/backlog.h"
#include "queue/drain_rate.h"
#include "queue/room.h"
#include "queue/worker_state.h"
#include "router/api_error.h"
#include "router/suspicion.h"
#include "stream_state.h"

namespace longshelf::router {

using internal::StreamState;
using internal::WorkerState;

namespace {

constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);
constexpr double kMeanStep = 0.05;
// Output that a worker promises blocks for before it begins a sequence (EngineConfig::admission_headroom_tokens).
constexpr uint64_t kOutputHeadroom = 1024;

// KV blocks that it takes to begin it where n_prefix tokens of it are.
uint64_t BlocksOf(const StreamSpec& spec, uint32_t n_prefix, uint32_t block_tokens) {
  const uint64_t n_tokens = spec.prompt->size() + std::min<uint64_t>(spec.max_tokens, kOutputHeadroom);
  return (n_tokens + block_tokens - 1) / block_tokens - n_prefix / block_tokens;
}

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
    : config_(config),
      clock_(clock),
      metrics_(metrics),
      backlog_(std::make_unique<internal::Backlog>()),
      drain_rate_(std::make_unique<internal::DrainRate>()) {
  workers_.reserve(links.size());
  for (auto& link : links) {
    workers_.emplace_back();
    workers_.back().link = std::move(link);
  }
}

Dispatcher::~Dispatcher() {
  *alive_ = false;
  Stop();
}

void Dispatcher::Start() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    metrics_.WorkerUp(i, false);
    workers_[i].link->Start(i, *this);
  }
}

void Dispatcher::Stop() {
  // Calls must end before the links they were made through.
  for (const StatePtr& stream : running_) stream->EndAttempt();
  for (WorkerState& w : workers_) {
    w.ready = false;
    w.link.reset();
  }
}

size_t Dispatcher::n_ready() const {
  return static_cast<size_t>(std::count_if(workers_.begin(), workers_.end(),
                                           [](const WorkerState& w) { return w.ready && !w.load.draining; }));
}

absl::StatusOr<std::unique_ptr<Stream>> Dispatcher::Generate(StreamSpec spec, StreamObserver& observer) {
  LONGSHELF_CHECK(spec.prompt != nullptr && !spec.prompt->empty());
  LONGSHELF_CHECK(spec.committed.empty() || spec.max_tokens > spec.committed.size());
  if (IsOfAnotherModel(spec)) return OtherModelStatus();
  auto state = std::make_shared<StreamState>(*this, std::move(spec), observer);
  const uint64_t n_miss = MissOf(*state);
  const uint64_t n_tokens = CostOf(*state, n_miss);
  if (absl::Status refusal = RefusalOfTenant(state->spec, n_tokens); !refusal.ok()) return refusal;
  if (absl::Status refusal = RefusalOfWait(state->spec, n_miss, n_tokens); !refusal.ok()) return refusal;
  ++n_streams_;
  backlog_->Join(*state, state->spec.tenant, state->spec.tier);
  Wait(state, config_.queue_timeout, /*to_front=*/false);
  RequestKeys();
  PumpQueue();
  return std::make_unique<Stream>(std::move(state));
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
      std::none_of(workers_.begin(), workers_.end(), [](const WorkerState& w) { return w.ready; })) {
    model_.reset();
  }
  if (const std::string refusal = RefusalOf(info); !refusal.empty()) {
    spdlog::warn("worker {} refused: {}", worker, refusal);
    metrics_.WorkerRefused();
    OnWorkerDown(worker, absl::FailedPreconditionError(refusal));
    return false;
  }
  if (!std::exchange(model_, model_.value_or(info)).has_value()) OnModelKnown();
  WorkerState& w = workers_[worker];
  if (w.info.IsSameGroup(info)) ForgetDeath(worker);
  w.OnUp(info);
  metrics_.WorkerUp(worker, true);
  spdlog::info("worker {} is up: model {}, context {}", worker, info.model_name, info.n_context_max);
  RequestKeys();
  PumpQueue();
  return true;
}

void Dispatcher::OnModelKnown() {
  std::vector<StatePtr> waiting(queued_.begin(), queued_.end());
  std::sort(waiting.begin(), waiting.end(),
            [](const StatePtr& a, const StatePtr& b) { return a->queued_since < b->queued_since; });
  for (const StatePtr& stream : waiting) {
    if (stream->phase != StreamState::Phase::kQueued) continue;
    if (IsOfAnotherModel(stream->spec)) {
      stream->Fail(OtherModelStatus());
    } else if (!HasKeys(*stream) && stream->line != StreamState::Line::kKeyless) {
      LeaveLine(*stream);
      StandInLine(*stream, /*to_front=*/false);
    }
  }
}

void Dispatcher::OnWorkerUpdate(size_t worker, const WorkerUpdate& update) {
  WorkerState& w = workers_[worker];
  if (!w.ready) return;
  if (update.snapshot) w.index.Clear();
  for (const IndexedCheckpoint& checkpoint : update.gained) w.index.Add(checkpoint);
  for (const BlockKey& key : update.lost) w.index.Remove(key);
  w.OnLoad(update.load, clock_.Now());
  PumpQueue();
}

void Dispatcher::OnWorkerDown(size_t worker, const absl::Status& why) {
  WorkerState& w = workers_[worker];
  const bool died = w.ready && !w.load.draining && IsSuddenEnd(why.code());
  if (w.ready) spdlog::warn("worker {} is gone: {}", worker, absl::StatusCodeToString(why.code()));
  w.OnDown();
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
  for (const StatePtr& stream : queued_) stream->suspicion.OnSurvived(death);
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

uint32_t Dispatcher::n_slots() const {
  uint32_t n = 0;
  for (const WorkerState& w : workers_) n += w.ready && !w.load.draining ? w.n_slots() : 0;
  return n;
}

bool Dispatcher::IsUsable(const WorkerState& worker, absl::Time now) const {
  if (!worker.ready || worker.load.draining || worker.refuses) return false;
  if (!worker.breaker.is_open()) return true;
  const bool is_last = std::none_of(workers_.begin(), workers_.end(), [](const WorkerState& w) {
    return w.ready && !w.load.draining && !w.breaker.is_open();
  });
  return worker.breaker.Allows(now, is_last);
}

uint32_t Dispatcher::UsablePrefix(size_t worker, StreamState& stream) const {
  if (stream.is_scoring()) return 0;  // what tells of a prompt's tokens is computed whatever is held
  stream.prefixes.resize(workers_.size());
  StreamState::KnownPrefix& known = stream.prefixes[worker];
  const PrefixIndex& index = workers_[worker].index;
  if (known.version != index.version()) {
    known = {index.version(), index.UsablePrefix(stream.spec.keys, *stream.spec.prompt)};
  }
  return known.n_tokens;
}

WorkerCandidate Dispatcher::CandidateFor(size_t worker, StreamState& stream, Where where) const {
  const WorkerState& w = workers_[worker];
  WorkerCandidate candidate;
  candidate.usable = IsUsable(w, clock_.Now()) && !stream.tried.contains(worker) &&
                     stream.spec.prompt->size() < w.info.n_context_max && !IsToBeKeptFrom(worker, stream);
  if (!candidate.usable) return candidate;
  candidate.n_usable_prefix = UsablePrefix(worker, stream);
  candidate.n_tokens_queued = w.n_tokens_of_all();
  candidate.n_streams = w.n_streams_of_all();
  candidate.n_streams_max = w.n_slots();
  candidate.last_pick = w.last_pick;
  if (!stream.spec.affinity.empty()) candidate.affinity = AffinityRank(stream.spec.affinity, w.info.id);
  if (where == Where::kWithRoom) {
    const internal::Wanted wanted{.n_tokens = stream.spec.prompt->size() - candidate.n_usable_prefix,
                                  .n_blocks = BlocksOf(stream.spec, candidate.n_usable_prefix, w.info.block_tokens),
                                  .is_under_share = backlog_->IsUnderShare(*stream.flow)};
    candidate.has_room = HasRoom(w.Room(wanted.n_tokens, config_.wait_max), wanted, config_.wait_max);
  }
  return candidate;
}

bool Dispatcher::Place(StreamState& stream, Where where) {
  if (!HasKeys(stream)) return false;
  std::vector<WorkerCandidate> candidates(workers_.size());
  const std::vector<bool> with_suspects = WorkersWithSuspects();
  for (size_t i = 0; i < workers_.size(); ++i) {
    candidates[i] = CandidateFor(i, stream, where);
    candidates[i].has_suspect = with_suspects[i];
  }
  PickTerms terms{.n_prompt_tokens = stream.spec.prompt->size()};
  if (where == Where::kWithRoom) {
    terms.may_wait = clock_.Now() - stream.queued_since < config_.wait_max / 2;
    terms.slot_wait_tokens = std::clamp(static_cast<uint64_t>(cost_mean_), kOverlapTokens, kSlotWaitTokens);
  }
  const auto pick = PickWorker(candidates, terms);
  if (!pick) return false;
  metrics_.Picked(PickReasonName(pick->reason));
  Send(stream, pick->worker, stream.spec.prompt->size() - candidates[pick->worker].n_usable_prefix);
  return true;
}

void Dispatcher::Send(StreamState& stream, size_t worker, uint64_t n_miss) {
  const StatePtr self = stream.shared_from_this();
  WorkerState& w = workers_[worker];
  if (stream.phase == StreamState::Phase::kQueued && queued_.erase(self) > 0) {
    metrics_.QueueWait(clock_.Now() - stream.queued_since);
  }
  if (stream.in_line) {
    drain_rate_->OnPlaced(stream.n_tokens);
    cost_mean_ += kMeanStep * (static_cast<double>(stream.n_tokens) - cost_mean_);
  }
  backlog_->Begin(stream);
  LeaveLine(stream);
  stream.n_charged = static_cast<double>(n_miss);
  internal::Backlog::Charge(stream, stream.n_charged);
  stream.placed_at = clock_.Now();
  w.last_pick = ++n_picks_;
  ++w.n_streams;
  w.breaker.OnPlaced();
  w.n_blocks_sent +=
      BlocksOf(stream.spec, static_cast<uint32_t>(stream.spec.prompt->size() - n_miss), w.info.block_tokens);
  const uint64_t n_queued = stream.has_output() ? 0 : n_miss;
  w.n_tokens_queued += n_queued;
  w.reading.insert(&stream);
  running_.insert(self);
  const WorkerRequest request = stream.NextRequest();
  stream.Attach(worker, w.link->Generate(request, stream), n_queued);
}

void Dispatcher::ExpireQueue(absl::Time now) {
  const bool takes_more = std::any_of(workers_.begin(), workers_.end(), [](const WorkerState& w) {
    return w.ready && !w.load.draining && !w.refuses && !w.breaker.is_open();
  });
  std::vector<StatePtr> expired;
  for (const StatePtr& stream : queued_) {
    if (now < stream->deadline || stream->paused()) continue;
    if (stream->line != StreamState::Line::kBacklog || stream->was_placed || !takes_more) expired.push_back(stream);
  }
  const bool has_workers = n_ready() > 0;
  for (const StatePtr& stream : expired) {
    if (stream->phase == StreamState::Phase::kQueued) {
      stream->Fail(has_workers ? OverloadedStatus(RetryAfter(std::nullopt)) : stream->NoWorkers());
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
  RequestKeys();
  PumpQueue();
  ShedLate();
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

void Dispatcher::OnAnswer(const StreamState& stream) {
  const double step = std::max(kMeanStep, 1.0 / static_cast<double>(++n_answers_));
  output_mean_ += step * (static_cast<double>(stream.n_committed()) - output_mean_);
  seconds_mean_ += step * (absl::ToDoubleSeconds(clock_.Now() - stream.placed_at) - seconds_mean_);
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
  WorkerState& w = workers_[worker];
  const bool is_refusal = status.code() == absl::StatusCode::kResourceExhausted && !stream.is_heard;
  ReleaseWorker(stream);
  if (is_refusal) {
    // Until it says, or shows, that it can do more.
    w.refuses = true;
    metrics_.StreamRefused();
    internal::Backlog::Charge(stream, -stream.n_charged);
  } else if (w.ready && IsWorkersFault(status.code()) && w.breaker.OnFailure(clock_.Now())) {
    spdlog::warn("worker {} fails what it is given: it gets less", worker);
    metrics_.BreakerOpened();
  }
  if (stream.FinishIfComplete()) return;
  if (!MayRetry(stream, status)) {
    // All of its attempts ended so, but never was it the only suspect.
    const bool died_again = stream.suspicion.n_silent > 1 && IsWorkersFault(status.code());
    return died_again ? Refuse({self}) : stream.Fail(absl::IsUnavailable(status) ? stream.NoWorkers() : status);
  }
  if (status.code() != absl::StatusCode::kResourceExhausted) {
    stream.has_output() ? metrics_.Resumed() : metrics_.Retried();
  }
  if (!is_refusal) stream.tried.insert(worker);
  stream.queued_since = clock_.Now();
  // A stream whose client does not read needs no worker now.
  if (!stream.paused() && stream.is_returning() && Place(stream, Where::kAnywhere)) return;
  stream.not_before = clock_.Now() + (w.ready && !is_refusal ? kRetryDelay : absl::ZeroDuration());
  Wait(self, stream.has_output() ? config_.resume_timeout : config_.queue_timeout, /*to_front=*/true);
  PumpQueue();
}

void Dispatcher::ReleaseWorker(StreamState& stream) {
  if (stream.phase != StreamState::Phase::kRunning) return;
  WorkerState& w = workers_[stream.worker];
  --w.n_streams;
  w.n_tokens_queued -= std::exchange(stream.n_tokens_queued, 0);
  w.reading.erase(&stream);
  internal::Backlog::End(stream);
  stream.phase = StreamState::Phase::kQueued;  // in no line yet
  stream.EndAttempt();
  running_.erase(stream.shared_from_this());
}

void Dispatcher::Remove(StreamState& stream) {
  const StatePtr self = stream.shared_from_this();
  if (stream.phase == StreamState::Phase::kDone) return;
  if (stream.phase == StreamState::Phase::kRunning) {
    WorkerState& w = workers_[stream.worker];
    w.refuses = false;  // it has a place more
    if (!stream.is_heard) w.breaker.OnAbandoned();
    ReleaseWorker(stream);
  } else {
    LeaveLine(stream);
    queued_.erase(self);
    metrics_.QueueDepth(queued_.size());
  }
  if (std::exchange(stream.counted_as_retrying, false)) --n_retrying_;
  stream.phase = StreamState::Phase::kDone;
  backlog_->Leave(stream);
  --n_streams_;
  PumpQueue();
}

}  // namespace longshelf::router
