#include "homes.h"

#include <map>
#include <mutex>
#include <utility>

#include "common/check.h"

namespace longshelf::worker {
namespace {

class HomesPut final : public Homes::PutCall, public std::enable_shared_from_this<HomesPut> {
 public:
  HomesPut(const std::vector<HomeStore*>& stores, absl::Duration timeout, kvstore::Client::PutEvents events)
      : stores_(stores), timeout_(timeout), events_(std::move(events)) {}

  void Offer(Homes::PutItem item) override {
    const uint16_t shard = item.copy->shard();
    if (NeedsPart(shard)) StartPart(shard);
    std::shared_ptr<HomeStore::PutCall> put;
    HomeStore::PutItem out{std::move(item.head), item.copy->number(), item.ack, item.n_replicas};
    {
      const std::lock_guard lock(mutex_);
      if (is_closed_) return;
      Part& part = parts_.at(shard);
      if (part.is_done) return;  // it broke: all is about to end
      part.offered.push_back({n_offered_++, std::move(item.copy)});
      put = part.put;
    }
    put->Offer(std::move(out));
  }

  void Finish() override { Close(absl::OkStatus()); }
  void Cancel() override { Close(absl::CancelledError("the put was cancelled")); }

 private:
  struct Offered {
    size_t index;
    engine::KvCopyPtr copy;
  };
  struct Part {  // of one shard
    std::shared_ptr<HomeStore::PutCall> put;
    std::vector<Offered> offered;  // by the index of its own put
    bool is_done = false;
  };

  bool NeedsPart(uint16_t shard) {
    const std::lock_guard lock(mutex_);
    if (is_closed_ || !parts_.try_emplace(shard).second) return false;
    ++n_open_;
    return true;
  }

  // Not under the mutex: a put may end within the call that starts it.
  void StartPart(uint16_t shard) {
    kvstore::Client::PutEvents events;
    events.on_outcome = [self = shared_from_this(), shard](size_t index, absl::StatusOr<kvstore::PutOutcome> outcome) {
      self->OnOutcome(shard, index, std::move(outcome));
    };
    events.on_done = [self = shared_from_this(), shard](const absl::Status& status) { self->OnDone(shard, status); };
    const auto put = stores_[shard]->Put(timeout_, std::move(events));
    bool is_late = false;
    {
      const std::lock_guard lock(mutex_);
      Part& part = parts_.at(shard);
      if (part.is_done) return;
      part.put = put;
      is_late = is_closed_;  // another shard's put broke meanwhile
    }
    if (is_late) put->Cancel();
  }

  void OnOutcome(uint16_t shard, size_t index, absl::StatusOr<kvstore::PutOutcome> outcome) {
    Offered offered;
    {
      const std::lock_guard lock(mutex_);
      offered = std::exchange(parts_.at(shard).offered[index], {});
    }
    if (offered.copy != nullptr) events_.on_outcome(offered.index, std::move(outcome));
  }

  void OnDone(uint16_t shard, const absl::Status& status) {
    std::vector<Offered> unanswered;
    {
      const std::lock_guard lock(mutex_);
      Part& part = parts_.at(shard);
      part.is_done = true;
      part.put.reset();                              // it holds this, through its events
      unanswered = std::exchange(part.offered, {});  // offered while it ended
    }
    for (const Offered& offered : unanswered) {
      if (offered.copy != nullptr) events_.on_outcome(offered.index, status);
    }
    if (!status.ok()) Close(status);
    {
      const std::lock_guard lock(mutex_);
      --n_open_;
    }
    MaybeEnd();
  }

  // Nothing more is offered. OK: what was is carried through.
  void Close(const absl::Status& status) {
    std::vector<std::shared_ptr<HomeStore::PutCall>> open;
    {
      const std::lock_guard lock(mutex_);
      is_closed_ = true;
      if (status_.ok()) status_ = status;
      for (const auto& [shard, part] : parts_) {
        if (part.put != nullptr) open.push_back(part.put);
      }
    }
    for (const auto& put : open) status.ok() ? put->Finish() : put->Cancel();
    MaybeEnd();
  }

  void MaybeEnd() {
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      if (!is_closed_ || n_open_ > 0 || std::exchange(has_ended_, true)) return;
      status = status_;
    }
    events_.on_done(status);
  }

  const std::vector<HomeStore*>& stores_;
  const absl::Duration timeout_;
  const kvstore::Client::PutEvents events_;
  std::mutex mutex_;  // guards all below: shards answer on threads of their own
  std::map<uint16_t, Part> parts_;
  size_t n_offered_ = 0;
  int n_open_ = 0;
  bool is_closed_ = false;
  bool has_ended_ = false;
  absl::Status status_;
};

}  // namespace

Homes::Homes(std::vector<HomeStore*> stores, std::shared_ptr<engine::KvCopyLedger> ledger)
    : stores_(std::move(stores)), ledger_(std::move(ledger)) {}

std::shared_ptr<kvstore::Client::GetCall> Homes::Get(uint16_t shard, kvstore::Client::GetRequest request,
                                                     GetEvents events) {
  LONGSHELF_CHECK(shard < stores_.size());
  struct Wanted {
    uint64_t copy;
    size_t n_bytes;
  };
  auto wanted = std::make_shared<std::vector<Wanted>>();
  HomeStore::GetRequest out;
  for (const kvstore::GetItem& item : request.items) {
    wanted->push_back({ledger_->NextNumber(), item.expected_bytes});
    out.copies.push_back(wanted->back().copy);
  }
  out.objects = std::move(request);
  HomeStore::GetEvents inner;
  inner.on_object = [ledger = ledger_, shard, wanted, on_object = std::move(events.on_object)](
                        size_t index, absl::StatusOr<engine::EncodedStamp> stamp) {
    if (!stamp.ok()) return on_object(index, stamp.status());
    const Wanted& one = (*wanted)[index];
    on_object(index, ledger->Hold(shard, one.copy, one.n_bytes, *stamp));
  };
  inner.on_done = std::move(events.on_done);
  return stores_[shard]->Get(std::move(out), std::move(inner));
}

std::shared_ptr<Homes::PutCall> Homes::Put(absl::Duration timeout, kvstore::Client::PutEvents events) {
  return std::make_shared<HomesPut>(stores_, timeout, std::move(events));
}

}  // namespace longshelf::worker
