#include "cluster_put.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/namespace_id.h"

namespace longshelf::kvstore {

ClusterPut::ClusterPut(ClusterCore& core, absl::Duration timeout, Client::PutEvents events)
    : core_(core), deadline_(core.clock.Now() + timeout), events_(std::move(events)) {}

void ClusterPut::Start() {
  self_ = shared_from_this();
  view_ = core_.view;
  core_.loop->At(deadline_, [weak = weak_from_this()] {
    if (const auto self = weak.lock())
      self->Abandon(absl::DeadlineExceededError("the KV stores did not answer in time"));
  });
}

void ClusterPut::Offer(PutItem item) {
  if (is_finished_ || events_.on_done == nullptr) return;
  const size_t index = objects_.size();
  Object& object = objects_.emplace_back();
  object.n_wanted = std::clamp<size_t>(item.n_replicas, 1, view_->nodes.size());
  object.n_enough = item.n_acks == 0 ? object.n_wanted : std::min<size_t>(item.n_acks, object.n_wanted);
  object.candidates = view_->Candidates(item.head.extent, object.n_wanted + kSpareCandidates);
  object.item = std::move(item);
  if (index >= kMaxKeysPerCall) {
    return Answer(index,
                  absl::InvalidArgumentError(absl::StrCat("more than ", kMaxKeysPerCall, " objects in one call")));
  }
  Spread(index);
}

void ClusterPut::Finish() {
  is_finished_ = true;
  MaybeEnd();
}

void ClusterPut::Spread(size_t index) {
  Object& object = objects_[index];
  while (object.n_in_memory + object.n_waiting < object.n_wanted && object.next < object.candidates.size()) {
    const std::shared_ptr<NodePut> to = CallTo(object.candidates[object.next++]);
    if (to == nullptr) continue;
    ++object.n_waiting;
    ++n_waiting_;
    to->offered.push_back(index);
    to->heard.push_back(false);
    to->call->Offer(object.item);
  }
  MaybeAnswer(index);
}

std::shared_ptr<ClusterPut::NodePut> ClusterPut::CallTo(const std::shared_ptr<ClusterNode>& node) {
  const auto known = calls_.find(node.get());
  if (known != calls_.end() && !known->second->has_ended) {
    return known->second->call != nullptr ? known->second : nullptr;
  }
  // Again for each offer: a put lasts long, and a node that was away comes back.
  if (!core_.MayCall(*node)) return nullptr;
  const auto to = std::make_shared<NodePut>();
  to->node = node;
  calls_[node.get()] = to;
  ++n_calls_open_;
  Client::PutEvents events;
  events.on_outcome = [self = shared_from_this(), loop = core_.loop, to](size_t index,
                                                                         const absl::StatusOr<PutOutcome>& outcome) {
    loop->Post([self, to, index, outcome] { self->OnOutcome(to, index, outcome); });
  };
  events.on_done = [self = shared_from_this(), loop = core_.loop, to](const absl::Status& status) {
    loop->Post([self, to, status] { self->OnNodeDone(to, status); });
  };
  to->call = node->client->Put(deadline_ - core_.clock.Now(), std::move(events));
  return to;
}

void ClusterPut::OnOutcome(const std::shared_ptr<NodePut>& to, size_t index,
                           const absl::StatusOr<PutOutcome>& outcome) {
  if (events_.on_done == nullptr || index >= to->offered.size() || to->heard[index]) return;
  to->heard[index] = true;
  const size_t which = to->offered[index];
  Object& object = objects_[which];
  --object.n_waiting;
  --n_waiting_;
  if (!IsNodeDown(outcome.status())) core_.Report(*to->node, absl::OkStatus());
  if (outcome.ok()) {
    if (object.n_in_memory++ == 0) object.outcome = *outcome;
    object.outcome.existed = object.outcome.existed && outcome->existed;
    object.outcome.conflicts = object.outcome.conflicts || outcome->conflicts;
    if (IsDurable(object.item.ack)) ++object.n_durable;
  } else if (IsNamespaceDeleted(outcome.status())) {
    // Whoever else would take it has not heard of it yet.
    object.failure = outcome.status();
    object.next = object.candidates.size();
  } else {
    if (object.failure.ok() || IsNodeDown(object.failure)) object.failure = outcome.status();
    // A store without a disk: it has the object all the same.
    if (IsDurable(object.item.ack) && absl::IsFailedPrecondition(outcome.status())) ++object.n_in_memory;
    if (core_.counters != nullptr) core_.counters->failed_over.Increment();
  }
  Spread(which);
  MaybeEnd();
}

bool ClusterPut::IsKept(const Object& object) {
  switch (object.item.ack) {
    case Ack::kMemoryOne:
      return object.n_in_memory > 0;
    case Ack::kMemoryAll:
      return object.n_in_memory >= object.n_enough;
    case Ack::kDurableOne:
      return object.n_in_memory >= object.n_enough && object.n_durable > 0;
    case Ack::kDurableAll:
      return object.n_durable >= object.n_enough;
  }
  return false;
}

void ClusterPut::MaybeAnswer(size_t index) {
  Object& object = objects_[index];
  const bool is_over = object.n_waiting == 0;
  if (!object.is_answered) {
    if (IsKept(object)) {
      Answer(index, object.outcome);
    } else if (is_over) {
      const std::string few = absl::StrCat(object.n_in_memory, " of ", object.n_enough, " KV stores took an object");
      const absl::Status why = object.failure.ok() ? absl::UnavailableError("no other can be reached") : object.failure;
      Answer(index, absl::Status(why.code(), absl::StrCat(few, ": ", why.message())));
    }
  }
  if (is_over) object.item.payload.reset();
}

void ClusterPut::Answer(size_t index, const absl::StatusOr<PutOutcome>& outcome) {
  objects_[index].is_answered = true;
  if (events_.on_outcome != nullptr) events_.on_outcome(index, outcome);
}

void ClusterPut::OnNodeDone(const std::shared_ptr<NodePut>& to, const absl::Status& status) {
  core_.Report(*to->node, status);
  to->has_ended = true;
  --n_calls_open_;
  if (status.ok()) {
    any_node_answered_ = true;
  } else if (node_failure_.ok()) {
    node_failure_ = status;
  }
  // Offers that came when the call was over already.
  const absl::Status lost = status.ok() ? absl::UnavailableError("the KV store ended a put early") : status;
  for (size_t i = 0; i < to->offered.size(); ++i) OnOutcome(to, i, lost);
  MaybeEnd();
}

void ClusterPut::MaybeEnd() {
  if (!is_finished_ || n_waiting_ > 0 || events_.on_done == nullptr) return;
  if (n_calls_open_ == 0) {
    const bool is_down = !any_node_answered_ && !objects_.empty();
    return End(is_down ? (node_failure_.ok() ? absl::UnavailableError("no KV store can be reached") : node_failure_)
                       : absl::OkStatus());
  }
  for (const auto& [node, to] : calls_) {
    if (!to->has_ended && to->call != nullptr) to->call->Finish();
  }
}

void ClusterPut::End(const absl::Status& status) {
  const auto self = std::exchange(self_, nullptr);
  const Client::PutEvents events = std::exchange(events_, {});
  if (events.on_done != nullptr) events.on_done(status);
}

void ClusterPut::Abandon(const absl::Status& status) {
  if (events_.on_done == nullptr) return;
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (!objects_[i].is_answered) Answer(i, status);
  }
  const auto calls = calls_;
  for (const auto& [node, to] : calls) {
    // A call that is cancelled may hear of its end late, and holds this until then.
    if (!to->has_ended) std::exchange(to->call, nullptr)->Cancel();
  }
  End(status);
}

}  // namespace longshelf::kvstore
