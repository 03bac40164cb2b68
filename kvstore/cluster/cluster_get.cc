#include "cluster_get.h"

#include <algorithm>
#include <utility>

namespace longshelf::kvstore {
namespace {

// For a node that may be the only one to have an object, when all others have not.
constexpr absl::Duration kLastWait = absl::Seconds(1);

// What is worth saying when several nodes failed for several reasons.
bool SaysMore(const absl::Status& status, const absl::Status& than) {
  const auto rank = [](const absl::Status& each) {
    if (each.ok()) return 0;
    if (absl::IsNotFound(each)) return 1;
    return IsNodeDown(each) ? 2 : 3;
  };
  return rank(status) > rank(than);
}

}  // namespace

ClusterGet::ClusterGet(ClusterCore& core, Client::GetRequest request, Client::GetEvents events)
    : core_(core),
      request_(std::move(request)),
      deadline_(core.clock.Now() + request_.timeout),
      events_(std::move(events)) {}

void ClusterGet::Start() {
  self_ = shared_from_this();
  view_ = core_.view;
  core_.loop->At(deadline_, [weak = weak_from_this()] {
    if (const auto self = weak.lock())
      self->Abandon(absl::DeadlineExceededError("the KV stores did not answer in time"));
  });
  StartRun();
}

void ClusterGet::StartRun() {
  if (due_ == request_.items.size()) return End();
  const BlockKey& extent = request_.items[due_].extent;
  run_end_ = due_ + 1;
  while (run_end_ < request_.items.size() && request_.items[run_end_].extent == extent) ++run_end_;
  candidates_ = view_->Candidates(extent, core_.n_candidates());
  asked_.assign(candidates_.size(), false);
  miss_ = absl::OkStatus();
  GoOn();
}

bool ClusterGet::StartAttempt() {
  for (size_t candidate = 0; candidate < candidates_.size(); ++candidate) {
    if (asked_[candidate]) continue;
    asked_[candidate] = true;
    const std::shared_ptr<ClusterNode>& node = candidates_[candidate];
    if (too_slow_.contains(node.get()) || !core_.MayCall(*node)) {
      if (SaysMore(absl::UnavailableError(""), miss_)) miss_ = absl::UnavailableError("a KV store cannot be reached");
      continue;
    }
    auto attempt = std::make_shared<Attempt>();
    attempt->node = node;
    attempt->candidate = candidate;
    attempt->first = due_;
    attempt->begun = core_.clock.Now();
    attempts_.push_back(attempt);
    Client::GetRequest part;
    part.fingerprint = request_.fingerprint;
    part.items.assign(request_.items.begin() + static_cast<std::ptrdiff_t>(due_),
                      request_.items.begin() + static_cast<std::ptrdiff_t>(run_end_));
    part.timeout = deadline_ - attempt->begun;
    part.window_bytes = request_.window_bytes;
    part.unreleased_bytes = n_out_;
    Client::GetEvents events;
    events.on_object = [self = shared_from_this(), loop = core_.loop, attempt](size_t index,
                                                                               absl::StatusOr<FetchedObject> object) {
      auto shared = std::make_shared<absl::StatusOr<FetchedObject>>(std::move(object));
      loop->Post([self, attempt, index, shared] { self->OnObject(attempt, index, std::move(*shared)); });
    };
    events.on_done = [self = shared_from_this(), loop = core_.loop, attempt](const absl::Status& status) {
      loop->Post([self, attempt, status] { self->OnDone(attempt, status); });
    };
    attempt->call = node->client->Get(std::move(part), std::move(events));
    SetHedgeTimer();
    return true;
  }
  return false;
}

void ClusterGet::OnObject(const std::shared_ptr<Attempt>& attempt, size_t index, absl::StatusOr<FetchedObject> object) {
  if (!attempt->is_heard || events_.on_object == nullptr) return;
  if (!std::exchange(attempt->has_answered, true) && !IsNodeDown(object.status())) {
    attempt->node->latency.Observe(core_.clock.Now() - attempt->begun);
    core_.Report(*attempt->node, absl::OkStatus());  // others need not wait for the end of the call
  }
  // Those before it were delivered by this attempt, or it would have been given up.
  if (attempt->first + index != due_) return GiveUp(attempt);
  if (!object.ok()) return OnMiss(attempt, object.status());
  // It wins: nobody else need go on.
  const auto rivals = attempts_;
  for (const auto& rival : rivals) {
    if (rival == attempt) continue;
    rival->has_lost = !rival->has_answered;
    GiveUp(rival);
  }
  Deliver(std::move(object));
  if (due_ < run_end_) return SetHedgeTimer();
  attempt->is_heard = false;
  std::erase(attempts_, attempt);
  StartRun();
}

void ClusterGet::Deliver(absl::StatusOr<FetchedObject> object) {
  if (object.ok()) n_out_ += object->payload.size();
  const size_t index = due_++;
  miss_ = absl::OkStatus();
  // Whoever lacked the last one may have the next.
  asked_.assign(candidates_.size(), false);
  for (const auto& attempt : attempts_) asked_[attempt->candidate] = true;
  events_.on_object(index, std::move(object));
}

void ClusterGet::OnMiss(const std::shared_ptr<Attempt>& attempt, const absl::Status& status) {
  if (SaysMore(status, miss_)) miss_ = status;
  if (core_.counters != nullptr && !absl::IsNotFound(status)) core_.counters->failed_over.Increment();
  GiveUp(attempt);
  // Whoever is left in the race was late already.
  if (!attempts_.empty() && !StartAttempt()) SetHedgeTimer();
  GoOn();
}

bool ClusterGet::IsHeldUp() const {
  return n_out_ > 0 && n_out_ + request_.items[due_].expected_bytes > request_.window_bytes;
}

void ClusterGet::GiveUp(std::shared_ptr<Attempt> attempt) {
  attempt->is_heard = false;
  std::erase(attempts_, attempt);
  if (attempt->call != nullptr) attempt->call->Cancel();
}

void ClusterGet::GoOn() {
  while (attempts_.empty() && events_.on_object != nullptr) {
    go_on_when_released_ = IsHeldUp();
    if (go_on_when_released_ || StartAttempt()) return;
    // Nobody has it. The others of the run may well be there.
    Deliver(miss_.ok() ? absl::NotFoundError("no KV store has it") : miss_);
    if (due_ == run_end_) return StartRun();
  }
}

void ClusterGet::SetHedgeTimer() {
  if (attempts_.empty() || IsHeldUp()) return;
  const std::shared_ptr<Attempt>& newest = attempts_.back();
  const absl::Duration usual = newest->node->latency.HedgeAfter();
  const bool is_last = std::find(asked_.begin(), asked_.end(), false) == asked_.end();
  core_.loop->At(core_.clock.Now() + (is_last ? std::max(4 * usual, kLastWait) : usual),
                 [weak = weak_from_this(), due = due_, slow = std::weak_ptr<Attempt>(newest), is_last] {
                   if (const auto self = weak.lock()) self->OnLate(due, slow.lock(), is_last);
                 });
}

void ClusterGet::OnLate(size_t due, const std::shared_ptr<Attempt>& slow, bool is_last) {
  // Only while the node lets us wait: not when it has moved on, or when the receiver holds it up.
  if (events_.on_object == nullptr || due != due_ || IsHeldUp()) return;
  if (attempts_.empty() || attempts_.back() != slow) return;
  if (StartAttempt()) {
    if (core_.counters != nullptr) core_.counters->hedged.Increment();
    return;
  }
  // The others cannot be asked now: whoever is the last that can has the time of the last.
  if (!is_last) return SetHedgeTimer();
  // Everybody was asked, and those who are left had their time: the objects behind this one shall not wait for them.
  while (!attempts_.empty()) {
    attempts_.front()->has_lost = true;
    too_slow_.insert(attempts_.front()->node.get());
    GiveUp(attempts_.front());
  }
  if (SaysMore(absl::UnavailableError(""), miss_)) miss_ = absl::UnavailableError("a KV store took too long");
  GoOn();
}

void ClusterGet::OnDone(const std::shared_ptr<Attempt>& attempt, const absl::Status& status) {
  core_.Report(*attempt->node, attempt->has_lost ? absl::DeadlineExceededError("another was faster") : status);
  if (!attempt->is_heard || events_.on_object == nullptr) return;
  // A call that ends well has answered for every item; one that fails has failed each that was left.
  attempt->is_heard = false;
  std::erase(attempts_, attempt);
  GoOn();
}

void ClusterGet::Release(uint64_t n_bytes) {
  if (events_.on_object == nullptr) return;
  const bool was_held_up = due_ < request_.items.size() && IsHeldUp();
  n_bytes = std::min(n_out_, n_bytes);
  n_out_ -= n_bytes;
  for (const auto& attempt : attempts_) attempt->call->Release(n_bytes);
  if (!was_held_up || IsHeldUp()) return;
  if (std::exchange(go_on_when_released_, false)) return GoOn();
  SetHedgeTimer();
}

void ClusterGet::End() {
  const auto self = std::exchange(self_, nullptr);
  const Client::GetEvents events = std::exchange(events_, {});
  if (events.on_done != nullptr) events.on_done(absl::OkStatus());
}

void ClusterGet::Abandon(const absl::Status& status) {
  const Client::GetEvents events = std::exchange(events_, {});
  if (events.on_done == nullptr) return;
  const auto self = std::exchange(self_, nullptr);
  const auto attempts = std::exchange(attempts_, {});
  for (const auto& attempt : attempts) {
    attempt->is_heard = false;
    // It may hear of its end late, and holds the attempt until then.
    if (attempt->call != nullptr) std::exchange(attempt->call, nullptr)->Cancel();
  }
  for (; due_ < request_.items.size(); ++due_) events.on_object(due_, status);
  events.on_done(status);
}

}  // namespace longshelf::kvstore
