#include "offload_queue.h"

#include <algorithm>

#include "kvstore/namespace_id.h"

namespace longshelf::worker {
namespace {

constexpr size_t kObjectsPerPut = 256;

uint64_t BytesOf(const std::vector<Homes::PutItem>& items) {
  uint64_t n_bytes = 0;
  for (const Homes::PutItem& item : items) n_bytes += item.copy->n_bytes();
  return n_bytes;
}

}  // namespace

void OffloadQueue::Count(int64_t n_objects, int64_t n_bytes) {
  const int64_t objects = n_objects_.fetch_add(n_objects) + n_objects;
  const int64_t bytes = n_bytes_.fetch_add(n_bytes) + n_bytes;
  core_.metrics.SetOffloadQueue(static_cast<size_t>(objects), static_cast<uint64_t>(bytes));
}

void OffloadQueue::Offer(std::vector<Homes::PutItem> items, OnSettled settled) {
  Batch batch{.items = std::move(items), .drops = {}, .settled = std::move(settled), .lease = nullptr};
  const uint64_t n_bytes = BytesOf(batch.items);
  if (auto lease = core_.budget.TryTake(ByteBudget::Way::kOut, n_bytes); lease.has_value()) {
    batch.lease = std::make_shared<ByteBudget::Lease>(*std::move(lease));
    Count(std::ssize(batch.items), static_cast<int64_t>(n_bytes));
  } else {
    core_.metrics.OffloadDropped(batch.items.size());
    batch.items.clear();
    if (batch.settled == nullptr) return;  // whoever looks after the session will find the gap
  }
  auto shared = std::make_shared<Batch>(std::move(batch));
  core_.loop->Post([self = shared_from_this(), shared] { self->Push(std::move(*shared)); });
}

void OffloadQueue::Drop(std::vector<kvstore::PlacedKey> keys) {
  core_.loop->Post([self = shared_from_this(), keys = std::move(keys)] {
    self->Push({.items = {}, .drops = keys, .settled = nullptr, .lease = nullptr});
  });
}

void OffloadQueue::Push(Batch batch) {
  queue_.push_back(std::move(batch));
  if (!is_busy_) SendNext();
}

void OffloadQueue::SendNext() {
  while (!queue_.empty()) {
    if (!queue_.front().drops.empty()) {
      SendDrop(queue_.front().drops);
      queue_.pop_front();
      continue;
    }
    std::vector<Batch> batches;
    size_t n_objects = 0;
    while (!queue_.empty() && queue_.front().drops.empty() && n_objects < kObjectsPerPut) {
      LeaveOutDeleted(queue_.front());
      n_objects += queue_.front().items.size();
      batches.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    if (n_objects > 0 && core_.breaker_out.MayCall(core_.clock.Now())) return SendPut(std::move(batches));
    if (n_objects > 0) core_.metrics.OffloadDropped(n_objects);
    Settle(std::move(batches));
  }
  if (const auto idle = std::exchange(idle_, nullptr)) idle();
}

void OffloadQueue::LeaveOutDeleted(Batch& batch) {
  std::erase_if(batch.items, [this](const Homes::PutItem& item) {
    if (!core_.deleted.Has(item.head.namespace_id)) return false;
    Count(-1, -static_cast<int64_t>(item.copy->n_bytes()));
    core_.metrics.OffloadDone("refused", item.copy->n_bytes());
    return true;
  });
}

void OffloadQueue::WhenIdle(std::function<void()> idle) {
  if (!is_busy_ && queue_.empty()) return idle();
  idle_ = std::move(idle);
}

void OffloadQueue::SendPut(std::vector<Batch> batches) {
  is_busy_ = true;
  was_answered_ = false;
  in_flight_ = std::move(batches);
  auto all = std::make_shared<std::vector<Sent>>();
  kvstore::Client::PutEvents events;
  events.on_outcome = [self = shared_from_this(), loop = core_.loop, all](
                          size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
    loop->Post([self, all, index, outcome] { self->OnOutcome((*all)[index], outcome); });
  };
  events.on_done = [self = shared_from_this(), loop = core_.loop](const absl::Status& status) {
    loop->Post([self, status] { self->OnDone(status); });
  };
  for (const Batch& batch : in_flight_) {
    for (const Homes::PutItem& item : batch.items) all->push_back({item.copy->n_bytes(), item.head.namespace_id});
  }
  put_ = core_.homes.Put(core_.options.put_timeout, std::move(events));
  for (const Batch& batch : in_flight_) {
    for (const Homes::PutItem& item : batch.items) put_->Offer(item);
  }
  put_->Finish();
}

void OffloadQueue::OnOutcome(const Sent& sent, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
  if (outcome.ok()) {
    was_answered_ = true;
    core_.metrics.OffloadDone(outcome->existed ? "existed" : "stored", sent.n_bytes);
    if (outcome->conflicts) core_.metrics.DigestConflict();
    return;
  }
  const bool is_deleted = kvstore::IsNamespaceDeleted(outcome.status());
  if (is_deleted) core_.deleted.Add(sent.namespace_id);
  const bool is_refused = is_deleted || absl::IsResourceExhausted(outcome.status());
  was_answered_ = was_answered_ || is_refused;
  core_.metrics.OffloadDone(is_refused ? "refused" : "failed", sent.n_bytes);
}

void OffloadQueue::OnDone(const absl::Status& status) {
  if (was_answered_ || !IsStoreDown(status)) {
    core_.breaker_out.Answered(absl::ZeroDuration());
  } else {
    core_.breaker_out.Failed(core_.clock.Now());
  }
  put_.reset();
  is_busy_ = false;
  Settle(std::exchange(in_flight_, {}));
  if (!is_busy_) SendNext();
}

void OffloadQueue::Settle(std::vector<Batch> batches) {
  for (Batch& batch : batches) {
    Count(-std::ssize(batch.items), -static_cast<int64_t>(BytesOf(batch.items)));
    batch.items.clear();
    batch.lease.reset();
    if (batch.settled != nullptr) batch.settled();
  }
}

// Nobody waits for it: what a store that cannot be reached keeps is evicted in its time. What somebody has parked, here
// or on another worker, stays.
void OffloadQueue::SendDrop(const std::vector<kvstore::PlacedKey>& keys) {
  for (size_t first = 0; first < keys.size(); first += kvstore::kMaxKeysPerCall) {
    const size_t end = std::min(keys.size(), first + kvstore::kMaxKeysPerCall);
    core_.store.DropCache(
        {keys.begin() + static_cast<std::ptrdiff_t>(first), keys.begin() + static_cast<std::ptrdiff_t>(end)},
        core_.options.put_timeout, [](const absl::StatusOr<kvstore::DropResult>&) {});
  }
}

}  // namespace longshelf::worker
