#include "restore.h"

#include <algorithm>
#include <set>
#include <utility>

#include "engine/model/kv_layout.h"

namespace longshelf::worker {

using engine::kBlockTokens;
using kvstore::GetItem;
using kvstore::ObjectKind;

namespace {

// Other candidates are tried when one turns out to be incomplete.
constexpr int kAttemptsMax = 4;
// Blocks on their way of one restore, as far as the budget allows.
constexpr uint64_t kBlocksOnTheWay = 16;

constexpr char kTooSlow[] = "slower_than_computing";

uint64_t SizeOf(const engine::KvCopyPtr& copy) { return copy == nullptr ? 0 : copy->n_bytes(); }

}  // namespace

bool Restore::Candidate::has_tail() const { return n_tokens % kBlockTokens != 0; }

void Restore::Start(std::vector<uint32_t> tokens) {
  begun_at_ = core_.clock.Now();
  const absl::Duration worth =
      std::max(core_.options.shortest_wait, core_.ComputeTime(0, chain_.n_usable())) - (begun_at_ - arrived_at_);
  if (worth <= absl::ZeroDuration()) {
    core_.metrics.RestoreFailed("store_timeout");
    return Answer({.feed = nullptr, .miss_reason = "store_timeout", .n_shared = 0});
  }
  if (!core_.breaker_in.MayCall(begun_at_, worth)) {
    core_.metrics.RestoreFailed("store_unreachable");
    return Answer({.feed = nullptr, .miss_reason = "store_unreachable", .n_shared = 0});
  }
  kvstore::LookupQuery query;
  query.fingerprint = core_.options.fingerprint;
  query.root = chain_.root();
  query.chain = chain_.blocks();
  // Every position inside the last, partly filled block, by name: the listing of a popular block is bounded and may be
  // full of other people's continuations.
  const int64_t last_boundary = chain_.n_usable() - chain_.n_usable() % kBlockTokens;
  for (int64_t n = last_boundary + 1; n <= chain_.n_usable(); ++n) {
    query.probes.push_back(chain_.CheckpointAt(tokens, n));
  }
  const absl::Duration timeout = std::min(core_.options.lookup_timeout, worth);
  const auto self = shared_from_this();
  core_.loop->At(begun_at_ + timeout, [weak = weak_from_this()] {
    if (const auto restore = weak.lock()) restore->OnLookupTimeout();
  });
  core_.store.Lookup(query, timeout,
                     [self, loop = core_.loop, kept = std::make_shared<const std::vector<uint32_t>>(std::move(tokens))](
                         absl::StatusOr<kvstore::LookupResult> found) {
                       auto shared = std::make_shared<const absl::StatusOr<kvstore::LookupResult>>(std::move(found));
                       loop->Post([self, kept, shared] { self->OnLookup(*kept, *shared); });
                     });
}

void Restore::Abandon() {
  Answer({.feed = nullptr, .miss_reason = "store_unreachable", .n_shared = 0});
  OnStop();
}

void Restore::Answer(RestoreOutcome outcome) {
  if (const auto done = std::exchange(done_, nullptr)) done(std::move(outcome));
}

void Restore::OnLookupTimeout() {
  if (done_ == nullptr) return;
  const absl::Duration took = core_.clock.Now() - begun_at_;
  core_.breaker_in.TooSlow(took);
  if (took >= core_.options.lookup_timeout) core_.breaker_in.Failed(core_.clock.Now());
  core_.metrics.SetStoreUp(!core_.breaker_in.is_open(core_.clock.Now()));
  core_.metrics.RestoreFailed("store_timeout");
  Answer({.feed = nullptr, .miss_reason = "store_timeout", .n_shared = 0});
}

void Restore::OnLookup(const std::vector<uint32_t>& tokens, const absl::StatusOr<kvstore::LookupResult>& found) {
  const absl::Time now = core_.clock.Now();
  if (!found.ok() && absl::IsDeadlineExceeded(found.status())) return OnLookupTimeout();
  if (found.ok() || !IsStoreDown(found.status())) {
    core_.breaker_in.Answered(now - begun_at_);
  } else if (done_ != nullptr) {
    core_.breaker_in.Failed(now);
  }
  core_.metrics.SetStoreUp(!core_.breaker_in.is_open(now));
  if (done_ == nullptr) return;  // too late
  waited_ = now - arrived_at_;
  if (!found.ok()) {
    core_.metrics.RestoreFailed(ReasonOf(found.status()));
    return Answer({.feed = nullptr, .miss_reason = ReasonOf(found.status()), .n_shared = 0});
  }
  // Nothing at all: the engine knows better whether it ever saw these tokens.
  if (found->n_present == 0 && found->checkpoints.empty()) return Answer({});
  RestoreOutcome outcome;
  outcome.n_shared = std::min<int64_t>(found->n_present, std::ssize(chain_.blocks())) * kBlockTokens;
  outcome.miss_reason = TakeCandidates(tokens, *found);
  if (!candidates_.empty()) outcome.feed = MakeFeed();
  Answer(std::move(outcome));
}

std::string Restore::TakeCandidates(const std::vector<uint32_t>& tokens, const kvstore::LookupResult& found) {
  std::string reason;
  std::set<kvstore::BlockKey> seen;
  for (const kvstore::CheckpointInfo& info : found.checkpoints) {
    const auto n_tokens = static_cast<int64_t>(info.depth_tokens);
    if (n_tokens < 1 || n_tokens > chain_.n_usable() || !seen.insert(info.hash).second) continue;
    // The store says where it hangs; only our own tokens say what it is of.
    if (chain_.CheckpointAt(tokens, n_tokens) != info.hash) continue;
    const Candidate candidate{info.hash, n_tokens};
    std::string refused;
    if (candidate.has_tail() && !info.has_tail) {
      refused = "no_tail";
    } else if (info.payload_bytes != core_.options.state_bytes(n_tokens) ||
               (candidate.has_tail() && info.tail_bytes != core_.options.block_bytes)) {
      refused = "bad_size";
    }
    if (refused.empty()) {
      candidates_.push_back(candidate);
    } else {
      core_.metrics.RestoreFailed(refused);
      if (reason.empty()) reason = refused;
    }
  }
  const int64_t n_in_blocks = std::min<int64_t>(found.n_present, std::ssize(chain_.blocks())) * kBlockTokens;
  const int64_t n_replay = core_.options.replay_tokens;
  if (n_replay > 0 && n_in_blocks > n_replay) {
    candidates_.push_back({.key = {}, .n_tokens = n_in_blocks, .n_replayed = n_replay});
  }
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.n_gained() > b.n_gained(); });
  if (reason.empty() && (candidates_.empty() || !candidates_.front().has_state())) reason = "no_checkpoint";
  return reason;
}

std::shared_ptr<RestoreFeed> Restore::MakeFeed() {
  // The engine's calls become tasks. The feed keeps this restore alive, not the other way round.
  RestoreFeed::Listener listener;
  listener.on_begin = [self = shared_from_this(), loop = core_.loop](uint32_t attempt, uint16_t shard,
                                                                     int64_t n_blocks) {
    loop->Post([self, attempt, shard, n_blocks] { self->OnBegin(attempt, shard, n_blocks); });
  };
  listener.on_taken = [self = shared_from_this(), loop = core_.loop](uint32_t attempt, uint64_t n_bytes) {
    loop->Post([self, attempt, n_bytes] { self->OnTaken(attempt, n_bytes); });
  };
  listener.on_stop = [self = shared_from_this(), loop = core_.loop] { loop->Post([self] { self->OnStop(); }); };
  auto feed = std::make_shared<RestoreFeed>(candidates_.front().n_gained(), std::move(listener),
                                            [core = &core_] { core->WakeEngine(); });
  feed_ = feed;
  return feed;
}

uint64_t Restore::LeaseBytes() const {
  const KvBridgeOptions& options = core_.options;
  const uint64_t n_affordable =
      std::clamp<uint64_t>(options.memory_bytes / 8 / options.block_bytes, 2, kBlocksOnTheWay);
  int64_t n_tokens = 0;
  for (const Candidate& candidate : candidates_) n_tokens = std::max(n_tokens, candidate.n_tokens);
  const auto n_wanted = static_cast<uint64_t>(n_tokens / kBlockTokens);
  return options.state_bytes_max + options.block_bytes * (1 + std::clamp<uint64_t>(n_wanted, 1, n_affordable));
}

// What is still to be fetched of it, at most.
uint64_t Restore::BytesOf(const Candidate& candidate) const {
  const int64_t n_blocks = std::max<int64_t>(candidate.n_tokens / kBlockTokens - n_next(), 0);
  const uint64_t n_bytes = core_.options.block_bytes * static_cast<uint64_t>(n_blocks);
  return candidate.has_state() ? n_bytes + core_.options.state_bytes_max + core_.options.block_bytes : n_bytes;
}

// Until the prompt is done: fetching, and computing what is then left. As long as nothing was computed, the one that
// leaves the least is taken for the fastest.
absl::Duration Restore::TimeWith(const Candidate& candidate) const {
  const int64_t n_left = chain_.n_usable() - candidate.n_gained();
  const absl::Duration compute = core_.ComputeTime(candidate.n_gained(), n_left);
  if (compute == absl::InfiniteDuration()) return absl::Seconds(n_left);
  return core_.fetch_speed.TimeOf(BytesOf(candidate)) + compute;
}

// How long after its beginning this attempt may fetch the candidate: what is fetched saves the engine from computing
// it, less what was waited for. Time in the engine's queue is not taken off: without a store it would have been waited
// there too, and computing would begin now.
absl::Duration Restore::AllowedFor(const Candidate& candidate) const {
  const int64_t n_held = first_block_ * kBlockTokens;
  const int64_t n_saved = std::max<int64_t>(candidate.n_gained() - n_held, 0);
  const absl::Duration compute = core_.ComputeTime(n_held, n_saved);
  if (compute != absl::InfiniteDuration()) return std::max(core_.options.shortest_wait, compute - waited_);
  const int64_t n_blocks = std::max<int64_t>(candidate.n_tokens - n_held, 0) / kBlockTokens;
  return core_.options.fetch_timeout + core_.options.fetch_timeout_per_block * n_blocks;
}

void Restore::OnBegin(uint32_t attempt, uint16_t shard, int64_t n_blocks) {
  OnStop();
  attempt_ = attempt;
  shard_ = shard;
  attempt_at_ = core_.clock.Now();
  first_block_ = n_blocks;
  end_block_ = std::ssize(chain_.blocks()) + 1;
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [this](const Candidate& a, const Candidate& b) { return TimeWith(a) < TimeWith(b); });
  while (candidate_ < candidates_.size() && !IsWorth(candidates_[candidate_])) ++candidate_;
  if (candidate_ == candidates_.size()) return Finish(0);
  SetDeadline();
  core_.budget.Take(ByteBudget::Way::kIn, LeaseBytes(),
                    [self = shared_from_this(), attempt](const std::shared_ptr<ByteBudget::Lease>& lease) {
                      self->OnLease(attempt, lease);
                    });
}

bool Restore::IsWorth(const Candidate& candidate) {
  const absl::Time now = core_.clock.Now();
  const absl::Duration allowed = attempt_at_ + AllowedFor(candidate) - now;
  if (allowed > absl::ZeroDuration() && core_.fetch_speed.IsWorth(BytesOf(candidate), allowed, now)) return true;
  if (reason_ != kTooSlow) OnGone(kTooSlow);
  return false;
}

void Restore::SetDeadline() {
  deadline_ = attempt_at_ + AllowedFor(candidates_[candidate_]);
  core_.loop->At(deadline_, [weak = weak_from_this(), attempt = attempt_] {
    if (const auto restore = weak.lock()) restore->OnDeadline(attempt);
  });
}

void Restore::OnLease(uint32_t attempt, const std::shared_ptr<ByteBudget::Lease>& lease) {
  if (attempt != attempt_) return;
  lease_ = lease;
  asked_at_ = core_.clock.Now();
  IsHeld(candidates_[candidate_]) ? NextCandidate() : FetchNext();
}

void Restore::OnStop() {
  EndCall();
  attempt_ = 0;
  candidate_ = 0;
  n_fetched_candidates_ = 0;
  reason_.clear();
  lease_.reset();
  n_bytes_come_ = 0;
  n_delivered_ = 0;
  n_bytes_out_ = 0;
  state_.reset();
  tail_.reset();
  has_state_ = false;
  fetch_again_ = false;
}

void Restore::EndCall() {
  ++call_;  // what it still says is not heard
  if (const auto get = std::exchange(get_, nullptr)) get->Cancel();
  items_.clear();
}

void Restore::OnDeadline(uint32_t attempt) {
  if (attempt != attempt_ || core_.clock.Now() < deadline_) return;  // another candidate has another one
  OnOutOfTime();
}

void Restore::OnOutOfTime() {
  OnGone("store_timeout");
  // It was slow while it was asked, not while there was no memory to ask it.
  if (lease_ != nullptr) {
    const absl::Time now = core_.clock.Now();
    core_.fetch_speed.TooSlow(n_bytes_come_, now - asked_at_, now);
  }
  Finish(0);
}

void Restore::OnGone(const std::string& reason) {
  core_.metrics.RestoreFailed(reason);
  if (reason_.empty()) reason_ = reason;
}

// Blocks alone that the engine has. A state is of use behind any of them.
bool Restore::IsHeld(const Candidate& candidate) const {
  return !candidate.has_state() && candidate.n_tokens <= first_block_ * kBlockTokens;
}

void Restore::NextCandidate() {
  has_state_ = false;
  state_.reset();
  tail_.reset();
  while (++candidate_ < candidates_.size()) {
    const Candidate& candidate = candidates_[candidate_];
    if (IsHeld(candidate) || candidate.n_tokens / kBlockTokens > end_block_ || !IsWorth(candidate)) continue;
    if (++n_fetched_candidates_ >= kAttemptsMax) break;
    SetDeadline();
    return FetchNext();
  }
  Finish(0);
}

void Restore::FetchNext() {
  if (cancelled_ != nullptr && cancelled_->load()) return Finish(0);
  const Candidate& candidate = candidates_[candidate_];
  std::vector<GetItem> items;
  if (!has_state_ && candidate.has_state()) {
    // First: without it the blocks are of no use.
    const kvstore::BlockKey& extent = chain_.ExtentAt(candidate.n_tokens);
    items.push_back({{candidate.key, ObjectKind::kCheckpoint}, core_.options.state_bytes(candidate.n_tokens), extent});
    if (candidate.has_tail()) items.push_back({{candidate.key, ObjectKind::kTail}, core_.options.block_bytes, extent});
  }
  const int64_t end = candidate.n_tokens / kBlockTokens;
  for (int64_t block = n_next(); block < end && items.size() < kvstore::kMaxKeysPerCall; ++block) {
    items.push_back({{chain_.blocks()[static_cast<size_t>(block)], ObjectKind::kBlock},
                     core_.options.block_bytes,
                     chain_.ExtentAt((block + 1) * kBlockTokens)});
  }
  if (items.empty()) {
    // The feed keeps what the engine has not taken.
    CountDone(candidate);
    return Finish(candidate.has_state() ? candidate.n_tokens : 0);
  }
  // A call's window counts what was delivered by it alone.
  fetch_again_ = n_bytes_out_ > 0;
  if (fetch_again_) return;
  Fetch(std::move(items));
}

void Restore::Fetch(std::vector<GetItem> items) {
  const uint32_t call = ++call_;
  items_ = items;
  kvstore::Client::GetRequest request;
  request.fingerprint = core_.options.fingerprint;
  request.items = std::move(items);
  request.timeout = deadline_ - core_.clock.Now();
  request.window_bytes = lease_->n_bytes() - core_.options.state_bytes_max - core_.options.block_bytes;
  Homes::GetEvents events;
  events.on_object = [self = shared_from_this(), loop = core_.loop, call](size_t index,
                                                                          absl::StatusOr<engine::KvCopyPtr> copy) {
    loop->Post([self, call, index, copy = std::move(copy)] { self->OnObject(call, index, copy); });
  };
  events.on_done = [self = shared_from_this(), loop = core_.loop, call](const absl::Status& status) {
    loop->Post([self, call, status] { self->OnFetched(call, status); });
  };
  get_ = core_.homes.Get(shard_, std::move(request), std::move(events));
}

void Restore::OnObject(uint32_t call, size_t index, absl::StatusOr<engine::KvCopyPtr> copy) {
  if (call != call_) return;
  const GetItem& item = items_[index];
  // The call has the time that the attempt has, and may be the first to say that it is over: no fault of the store's.
  if (absl::IsDeadlineExceeded(copy.status())) return OnOutOfTime();
  if (!copy.ok()) {
    OnGone(ReasonOf(copy.status()));
    const bool is_down = IsStoreDown(copy.status());
    if (item.key.kind == ObjectKind::kBlock) end_block_ = n_next();
    EndCall();
    if (is_down) {
      core_.breaker_in.Failed(core_.clock.Now());
      return Finish(0);
    }
    return NextCandidate();
  }
  const uint64_t n_bytes = (*copy)->n_bytes();
  n_bytes_come_ += n_bytes;
  if (item.key.kind == ObjectKind::kBlock) {
    ++n_delivered_;
    n_bytes_out_ += n_bytes;
    if (const auto feed = feed_.lock()) feed->Deliver(attempt_, *std::move(copy));
    return;
  }
  get_->Release(n_bytes);  // the lease has room for them beside the window
  (item.key.kind == ObjectKind::kCheckpoint ? state_ : tail_) = *std::move(copy);
  has_state_ = state_ != nullptr && (tail_ != nullptr || !candidates_[candidate_].has_tail());
}

void Restore::OnFetched(uint32_t call, const absl::Status& status) {
  if (call != call_) return;
  get_.reset();
  if (!status.ok()) {
    OnGone(ReasonOf(status));
    return Finish(0);
  }
  FetchNext();
}

void Restore::OnTaken(uint32_t attempt, uint64_t n_bytes) {
  if (attempt != attempt_) return;
  n_bytes_out_ -= std::min(n_bytes_out_, n_bytes);
  if (get_ != nullptr) get_->Release(n_bytes);
  if (fetch_again_ && n_bytes_out_ == 0) FetchNext();
}

void Restore::CountDone(const Candidate& candidate) {
  const absl::Duration took = core_.clock.Now() - attempt_at_;
  const uint64_t n_bytes =
      SizeOf(state_) + SizeOf(tail_) + static_cast<uint64_t>(n_delivered_) * core_.options.block_bytes;
  core_.metrics.RestoreDone(waited_ + took, std::max<int64_t>(candidate.n_gained() - first_block_ * kBlockTokens, 0),
                            n_bytes);
  core_.fetch_speed.Observe(n_bytes_come_, core_.clock.Now() - asked_at_);
}

// n_tokens 0: blocks at most.
void Restore::Finish(int64_t n_tokens) {
  EndCall();
  const uint32_t attempt = attempt_;
  engine::PrefixFeed::End end;
  end.n_tokens = n_tokens;
  end.state = std::move(state_);
  end.tail = std::move(tail_);
  end.miss_reason = n_tokens == chain_.n_usable() ? "" : reason_;
  std::shared_ptr<void> lease = std::move(lease_);
  OnStop();
  if (const auto feed = feed_.lock()) feed->Finish(attempt, std::move(end), std::move(lease));
}

}  // namespace longshelf::worker
