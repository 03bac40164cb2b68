// Streams that wait: where each stands, who is next, and who is told at once that it would take too long.
#include <algorithm>
#include <cmath>
#include <utility>

#include "queue/backlog.h"
#include "queue/drain_rate.h"
#include "queue/room.h"
#include "queue/worker_state.h"
#include "router/api_error.h"
#include "router/dispatcher.h"
#include "stream_state.h"

namespace longshelf::router {

using internal::StreamState;
using internal::WorkerState;

namespace {

constexpr size_t kKeysAtOnce = 8;
// Of one pass over the backlog: streams that no worker took.
constexpr size_t kTriesMax = 32;
// Whatever a stream costs that is not its tokens.
constexpr uint64_t kTokensOfAnyStream = 16;
// Beyond its patience, that a stream is let wait once it does: the estimate is one.
constexpr double kLateFactor = 2;
constexpr double kRetryAfterMax = 120;

}  // namespace

bool Dispatcher::HasKeys(const StreamState& stream) const {
  return model_.has_value() && stream.spec.keys.fingerprint == model_->fingerprint &&
         stream.spec.keys.block_tokens == model_->block_tokens;
}

void Dispatcher::RequestKeys() {
  while (model_ && !keyless_.empty() && n_keys_asked_ < kKeysAtOnce) {
    const StatePtr stream = keyless_.front();
    KeyMaker::Order order{model_->fingerprint, stream->spec.namespace_salt, model_->block_tokens, stream->spec.prompt};
    if (key_maker_ == nullptr) {
      keyless_.pop_front();
      stream->line = StreamState::Line::kNone;
      OnKeys(stream, order.Make());
      continue;
    }
    auto done = [this, alive = alive_, stream](PromptKeys keys) {
      if (!*alive) return;
      --n_keys_asked_;
      OnKeys(stream, std::move(keys));
      RequestKeys();
      PumpQueue();
    };
    if (!key_maker_->Make(std::move(order), std::move(done))) return;  // Tick asks again
    ++n_keys_asked_;
    keyless_.pop_front();
    stream->line = StreamState::Line::kNone;
  }
}

void Dispatcher::OnKeys(const StatePtr& stream, PromptKeys keys) {
  if (stream->phase != StreamState::Phase::kQueued) return;
  stream->spec.keys = std::move(keys);
  stream->prefixes.clear();
  // Else its client has stopped reading meanwhile.
  if (stream->line == StreamState::Line::kNone) StandInLine(*stream, /*to_front=*/false);
}

// Tokens of its prompt that the best worker for it has to compute.
uint64_t Dispatcher::MissOf(StreamState& stream) {
  uint32_t longest = 0;
  for (size_t i = 0; i < workers_.size() && HasKeys(stream); ++i) {
    if (workers_[i].ready) longest = std::max(longest, UsablePrefix(i, stream));
  }
  return stream.spec.prompt->size() - longest;
}

uint64_t Dispatcher::CostOf(const StreamState& stream, uint64_t n_miss) const {
  const uint64_t n_output = stream.spec.max_tokens - std::min<uint64_t>(stream.n_committed(), stream.spec.max_tokens);
  return n_miss + std::min(n_output, static_cast<uint64_t>(std::lround(output_mean_))) + kTokensOfAnyStream;
}

void Dispatcher::Wait(const StatePtr& stream, absl::Duration timeout, bool to_front) {
  stream->phase = StreamState::Phase::kQueued;
  stream->queued_since = clock_.Now();
  stream->waiting_since = std::min(stream->waiting_since, stream->queued_since);
  stream->deadline = stream->waiting_since + timeout;
  queued_.insert(stream);
  StandInLine(*stream, to_front);
  metrics_.QueueDepth(queued_.size());
}

void Dispatcher::StandInLine(StreamState& stream, bool to_front) {
  if (stream.paused()) {
    stream.line = StreamState::Line::kAsleep;
    ++n_asleep_;
  } else if (!HasKeys(stream)) {
    stream.line = StreamState::Line::kKeyless;
    keyless_.push_back(stream.shared_from_this());
  } else if (stream.is_returning()) {
    stream.line = StreamState::Line::kReturning;
    returning_.push_back(stream.shared_from_this());
  } else {
    stream.line = StreamState::Line::kBacklog;
    backlog_->Push(stream, CostOf(stream, MissOf(stream)), to_front);
  }
}

void Dispatcher::LeaveLine(StreamState& stream) {
  switch (std::exchange(stream.line, StreamState::Line::kNone)) {
    case StreamState::Line::kNone:
      return;
    case StreamState::Line::kAsleep:
      --n_asleep_;
      return;
    case StreamState::Line::kKeyless:
      std::erase(keyless_, stream.shared_from_this());
      return;
    case StreamState::Line::kReturning:
      std::erase(returning_, stream.shared_from_this());
      return;
    case StreamState::Line::kBacklog:
      if (stream.in_line) backlog_->Remove(stream);
      return;
  }
}

void Dispatcher::OnPausedInQueue(StreamState& stream) {
  LeaveLine(stream);
  StandInLine(stream, /*to_front=*/false);
}

// Its client reads again: from here on it waits for a worker, not for its client.
void Dispatcher::OnResumedInQueue(StreamState& stream) {
  LeaveLine(stream);
  stream.waiting_since = clock_.Now();
  stream.deadline = stream.waiting_since + config_.resume_timeout;
  StandInLine(stream, /*to_front=*/false);
  RequestKeys();
  PumpQueue();
}

bool Dispatcher::HasRoomFor(bool is_under_share) const {
  const absl::Time now = clock_.Now();
  const internal::Wanted wanted{.n_tokens = 1, .n_blocks = 0, .is_under_share = is_under_share};
  return std::any_of(workers_.begin(), workers_.end(), [&](const WorkerState& worker) {
    return IsUsable(worker, now) && HasRoom(worker.Room(1, config_.wait_max), wanted, config_.wait_max);
  });
}

void Dispatcher::PumpQueue() {
  if (!queued_.empty() && n_ready() > 0) {
    PlaceReturning(clock_.Now());
    PlaceWaiting();
    metrics_.QueueDepth(queued_.size());
  }
  drain_rate_->SetBusy(!backlog_->empty() && n_ready() > 0, n_slots(), clock_.Now());
}

void Dispatcher::PlaceReturning(absl::Time now) {
  const std::deque<StatePtr> waiting = returning_;
  for (const StatePtr& stream : waiting) {
    if (now < stream->not_before) continue;
    stream->tried.clear();
    Place(*stream, Where::kAnywhere);
  }
}

void Dispatcher::PlaceWaiting() {
  internal::Backlog::Pass pass(*backlog_);
  for (size_t n_failed = 0; n_failed < kTriesMax && !backlog_->empty();) {
    const bool has_room = HasRoomFor(false);
    if (!has_room && !(backlog_->HasUnderShare() && HasRoomFor(true))) return;
    internal::Waiter* next = pass.Next(/*only_under_share=*/!has_room);
    if (next == nullptr) return;
    auto& stream = static_cast<StreamState&>(*next);
    ++n_tries_;
    if (Place(stream, Where::kWithRoom)) continue;
    pass.Skip(stream);
    ++n_failed;
  }
}

// How long a stream may wait for its turn that has so much of a prompt to be read.
absl::Duration Dispatcher::PatienceOf(uint64_t n_miss) const {
  double tokens_per_second = 0;
  for (const WorkerState& worker : workers_) {
    if (worker.ready) tokens_per_second = std::max(tokens_per_second, worker.load.tokens_per_second);
  }
  if (internal::IsLong(n_miss, tokens_per_second, config_.wait_max)) {
    const absl::Duration own = absl::Seconds(static_cast<double>(n_miss) / tokens_per_second);
    return config_.wait_max + DispatcherConfig::kPatience * (own - config_.wait_max);
  }
  return std::max(config_.wait_max, absl::Seconds(seconds_mean_) - 2 * config_.wait_max);
}

absl::Status Dispatcher::RefusalOfTenant(const StreamSpec& spec, uint64_t n_tokens) {
  if (!limits_of_) return absl::OkStatus();
  const TenantLimits limits = limits_of_(spec.tenant);
  const char* excess = nullptr;
  if (limits.n_streams_max > 0 && backlog_->n_members(spec.tenant) >= limits.n_streams_max) {
    excess = "requests at once";
  } else if (limits.n_tokens_queued_max > 0 &&
             backlog_->n_tokens(spec.tenant) + n_tokens > limits.n_tokens_queued_max) {
    excess = "tokens of waiting requests";
  }
  if (excess == nullptr) return absl::OkStatus();
  metrics_.Shed("tenant");
  return QuotaStatus(excess, RetryAfter(ExpectedWait(spec, n_tokens)));
}

std::optional<double> Dispatcher::ExpectedWait(const StreamSpec& spec, uint64_t n_tokens) const {
  const auto rate = drain_rate_->TokensPerSecond(n_slots());
  if (!rate) return std::nullopt;
  return backlog_->TokensAhead(spec.tenant, spec.tier, internal::SizeClassOf(n_tokens)) / *rate;
}

absl::Status Dispatcher::RefusalOfWait(const StreamSpec& spec, uint64_t n_miss, uint64_t n_tokens) {
  const auto wait = ExpectedWait(spec, n_tokens);
  if (queued_.size() - n_asleep_ >= config_.queue_capacity) {
    metrics_.Shed("queue_full");
    return OverloadedStatus(RetryAfter(wait));
  }
  if (!wait || n_ready() == 0 || absl::Seconds(*wait) <= PatienceOf(n_miss)) return absl::OkStatus();
  metrics_.Shed("wait");
  return OverloadedStatus(RetryAfter(wait));
}

// Spread, so that those who were refused together do not come back together.
int Dispatcher::RetryAfter(std::optional<double> wait_seconds) {
  const double spread = 0.75 + 0.5 * static_cast<double>(++n_shed_ * 0x9e3779b97f4a7c15U >> 11) * 0x1p-53;
  return static_cast<int>(std::ceil(std::clamp(wait_seconds.value_or(1) * spread, 1.0, kRetryAfterMax)));
}

// It turned out that they wait too long: they came before anybody could know, or workers have gone.
void Dispatcher::ShedLate() {
  const auto rate = drain_rate_->TokensPerSecond(n_slots());
  if (!rate || n_ready() == 0) return;
  std::vector<std::pair<StatePtr, double>> late;
  backlog_->FromTheEnds([&](internal::Waiter& waiter, double n_tokens_ahead) {
    auto& stream = static_cast<StreamState&>(waiter);
    const double wait = n_tokens_ahead / *rate;
    if (stream.was_placed || absl::Seconds(wait) <= kLateFactor * PatienceOf(waiter.n_tokens)) return false;
    late.emplace_back(stream.shared_from_this(), wait);
    return true;
  });
  for (const auto& [stream, wait] : late) {
    if (stream->phase != StreamState::Phase::kQueued) continue;
    metrics_.Shed("late");
    stream->Fail(OverloadedStatus(RetryAfter(wait)));
  }
}

}  // namespace longshelf::router
