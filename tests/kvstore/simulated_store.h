#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/check.h"
#include "common/clock.h"
#include "items.h"
#include "kvstore/client.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {

// A client of a real memory store in this process, without threads: what is asked is answered when the test says
// Run(), after `latency` of the test's clock. Keeps every promise of kvstore/client.h, deadlines and windows included.
class SimulatedStore final : public Client {
 public:
  explicit SimulatedStore(ManualClock& clock) : clock_(clock) { Restart(); }

  // Everything is gone, as when the process is started anew.
  void Restart() {
    auto made = Store::Create({.capacity_bytes = uint64_t{64} << 20, .parked_share = 0.9});
    LONGSHELF_CHECK(made.ok());
    store_ = *std::move(made);
  }

  // Answers what is due; true when there was anything.
  bool Run() {
    bool has_run = false;
    while (!pending_.empty() && pending_.begin()->first <= clock_.Now()) {
      const auto task = std::move(pending_.begin()->second);
      pending_.erase(pending_.begin());
      task();
      has_run = true;
    }
    return has_run;
  }

  void Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) override {
    ++n_lookups;
    Answer<LookupResult>(timeout, std::move(done), [this, query] { return store_->Lookup(query); });
  }
  std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) override {
    ++n_gets;
    LONGSHELF_CHECK(request.items.size() <= kMaxKeysPerCall);
    auto call = std::make_shared<FakeGet>(*this, std::move(request), std::move(events));
    call->Begin();
    return call;
  }
  std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) override {
    ++n_puts;
    return std::make_shared<FakePut>(*this, clock_.Now() + timeout, std::move(events));
  }
  void Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) override {
    LONGSHELF_CHECK(query.keys.size() <= kMaxKeysPerCall);
    const auto touch = [this, keys = KeysOf(query.keys), query] {
      TouchResult result = store_->Touch(keys, query.retain_until, Now());
      if (IsDurable(query.ack) && !(has_disk && disk_fault.ok())) result.retained.assign(keys.size(), false);
      for (size_t i = n_retained_max; i < keys.size(); ++i) result.retained[i] = false;
      return result;
    };
    Answer<TouchResult>(timeout, std::move(done), touch, IsDurable(query.ack) ? disk_latency : absl::ZeroDuration());
  }
  void Drop(std::vector<PlacedKey> placed, absl::Duration timeout, Done<DropResult> done) override {
    Answer<DropResult>(timeout, std::move(done), [this, keys = Dropped(placed)] { return store_->Drop(keys); });
  }
  void DropCache(std::vector<PlacedKey> placed, absl::Duration timeout, Done<DropResult> done) override {
    Answer<DropResult>(timeout, std::move(done),
                       [this, keys = Dropped(placed)] { return store_->DropCache(keys, Now()); });
  }
  void DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) override {
    ++n_namespace_drops;
    Answer<DropResult>(timeout, std::move(done), [this, drop] {
      return drop.before_generation == 0 ? store_->DropNamespace(drop.id) : store_->DropGenerations(drop, Now());
    });
  }
  void List(ListQuery query, absl::Duration timeout, Done<ListResult> done) override {
    Answer<ListResult>(timeout, std::move(done), [this, query] { return store_->List(query); });
  }
  void Stats(absl::Duration timeout, Done<StoreStats> done) override {
    Answer<StoreStats>(timeout, std::move(done), [this] { return store_->Stats(Now()); });
  }

  Store& store() { return *store_; }
  uint64_t n_objects() { return store_->Stats(Now()).n_objects; }
  // What is stored under a name, or null.
  std::unique_ptr<FetchedObject> Read(const ObjectKey& key, const Fingerprint& fingerprint) {
    auto reader = store_->Get(key, fingerprint);
    if (!reader.ok()) return nullptr;
    auto out = std::make_unique<FetchedObject>();
    out->head = reader->head();
    out->payload.resize(out->head.payload_bytes);
    LONGSHELF_CHECK(reader->Read(out->payload).ok());
    return out;
  }

  absl::Status down;                                     // of every call that is answered
  absl::Duration latency = absl::ZeroDuration();         // of every call
  absl::Duration object_latency = absl::ZeroDuration();  // of each object of a Get
  std::function<absl::Status(const PutItem&)> refuse;
  std::function<void()> before_get;
  bool has_disk = false;                               // which takes everything
  absl::Status disk_fault;                             // or refuses everything, as one that is fenced
  std::function<void(const PutItem&)> on_durable;      // the disk has it
  absl::Duration wall_skew = absl::ZeroDuration();     // of this node's calendar
  absl::Duration disk_latency = absl::ZeroDuration();  // of a Touch that waits for it
  size_t n_retained_max = SIZE_MAX;                    // of the keys of one Touch, as if others were on too few nodes
  std::vector<ObjectKey> dropped;
  std::vector<ObjectKey> put_keys;  // in the order of the offers
  int n_lookups = 0;
  int n_gets = 0;
  int n_puts = 0;
  int n_cancelled = 0;
  int n_namespace_drops = 0;
  uint64_t n_bytes_out_max = 0;  // delivered and not released, of one Get
  uint64_t n_bytes_offered = 0;  // and without an outcome yet
  uint64_t n_bytes_offered_max = 0;

 private:
  absl::Time Now() const { return clock_.WallNow() + wall_skew; }

  class FakeGet final : public GetCall, public std::enable_shared_from_this<FakeGet> {
   public:
    FakeGet(SimulatedStore& fake, GetRequest request, GetEvents events)
        : store_(fake), request_(std::move(request)), events_(std::move(events)), n_out_(request_.unreleased_bytes) {}
    void Begin() {
      store_.At(store_.clock_.Now() + request_.timeout,
                [self = shared_from_this()] { self->End(absl::DeadlineExceededError("timeout")); });
      Next(store_.latency + store_.object_latency);
    }
    void Release(uint64_t n_bytes) override {
      LONGSHELF_CHECK(n_bytes <= n_out_);
      n_out_ -= n_bytes;
      if (std::exchange(is_stalled_, false)) Next(absl::ZeroDuration());
    }
    void Cancel() override {
      if (!is_over_) ++store_.n_cancelled;
      // As the real one: whoever cancels hears the end all the same.
      store_.At(store_.clock_.Now(), [self = shared_from_this()] { self->End(absl::CancelledError("cancelled")); });
    }

   private:
    void Next(absl::Duration after) {
      store_.At(store_.clock_.Now() + after, [self = shared_from_this()] { self->Deliver(); });
    }
    void Deliver() {
      if (is_over_) return;
      if (store_.before_get) store_.before_get();
      if (!store_.down.ok()) return End(store_.down);
      if (next_ == request_.items.size()) return End(absl::OkStatus());
      const GetItem& item = request_.items[next_];
      if (n_out_ > 0 && n_out_ + item.expected_bytes > request_.window_bytes) {
        is_stalled_ = true;
        return;
      }
      auto reader = store_.store_->Get(item.key, request_.fingerprint);
      absl::StatusOr<FetchedObject> out = absl::NotFoundError("absent");
      // Whoever looks in another extent asks another node.
      if (reader.ok() && reader->head().extent != item.extent) reader = absl::NotFoundError("elsewhere");
      if (reader.ok() && reader->head().payload_bytes != item.expected_bytes) {
        out = absl::FailedPreconditionError("size");
      } else if (reader.ok()) {
        FetchedObject object{reader->head(), std::vector<std::byte>(item.expected_bytes)};
        if (const absl::Status read = reader->Read(object.payload); read.ok()) {
          n_out_ += object.payload.size();
          store_.n_bytes_out_max = std::max(store_.n_bytes_out_max, n_out_);
          out = std::move(object);
        } else {
          out = read;
        }
      }
      events_.on_object(next_++, std::move(out));
      Next(store_.object_latency);
    }
    void End(const absl::Status& status) {
      if (std::exchange(is_over_, true)) return;
      for (; next_ < request_.items.size(); ++next_) events_.on_object(next_, status);
      events_.on_done(status);
      events_ = {};
    }

    SimulatedStore& store_;
    const GetRequest request_;
    GetEvents events_;
    size_t next_ = 0;
    uint64_t n_out_;
    bool is_stalled_ = false;
    bool is_over_ = false;
  };

  class FakePut final : public PutCall, public std::enable_shared_from_this<FakePut> {
   public:
    FakePut(SimulatedStore& fake, absl::Time deadline, PutEvents events)
        : store_(fake), deadline_(deadline), events_(std::move(events)) {}
    void Offer(PutItem item) override {
      if (is_finished_ || is_over_) return;
      LONGSHELF_CHECK(n_offered_ < kMaxKeysPerCall);
      const size_t index = n_offered_++;
      store_.put_keys.push_back(item.head.key);
      store_.n_bytes_offered += item.payload->size();
      store_.n_bytes_offered_max = std::max(store_.n_bytes_offered_max, store_.n_bytes_offered);
      waiting_.emplace(index, std::move(item));
      const bool in_time = store_.clock_.Now() + store_.latency <= deadline_;
      store_.At(in_time ? store_.clock_.Now() + store_.latency : deadline_,
                [self = shared_from_this(), index, in_time] { self->Take(index, in_time); });
    }
    void Finish() override {
      if (std::exchange(is_finished_, true)) return;
      store_.At(store_.clock_.Now(), [self = shared_from_this()] { self->MaybeEnd(); });
    }
    void Cancel() override {
      if (!is_over_) ++store_.n_cancelled;
      store_.At(store_.clock_.Now(), [self = shared_from_this()] { self->End(absl::CancelledError("cancelled")); });
    }

   private:
    void Take(size_t index, bool in_time) {
      if (is_over_) return;
      if (!in_time) return End(absl::DeadlineExceededError("timeout"));
      if (!store_.down.ok()) return End(store_.down);
      Close(index, Put(waiting_.at(index)));
      MaybeEnd();
    }
    absl::StatusOr<PutOutcome> Put(const PutItem& item) {
      if (store_.refuse) {
        if (const absl::Status refusal = store_.refuse(item); !refusal.ok()) return refusal;
      }
      ObjectHead head = item.head;
      head.payload_bytes = item.payload->size();
      head.digest = DigestOf(*item.payload);
      auto opened = store_.store_->Open(head, store_.Now());
      if (!opened.ok()) return opened.status();
      if (const auto* exists = std::get_if<Store::Exists>(&*opened)) {
        if (const absl::Status disk = store_.AskDisk(item); !disk.ok()) return disk;
        return PutOutcome{.existed = true, .digest = exists->digest, .conflicts = exists->digest != head.digest};
      }
      auto reservation = std::get<Store::Reservation>(*std::move(opened));
      LONGSHELF_CHECK(reservation.Append(0, *item.payload).ok());
      LONGSHELF_CHECK(store_.store_->Commit(std::move(reservation), store_.Now()).ok());
      if (const absl::Status disk = store_.AskDisk(item); !disk.ok()) return disk;
      return PutOutcome{.existed = false, .digest = head.digest, .conflicts = false};
    }
    void Close(size_t index, const absl::StatusOr<PutOutcome>& outcome) {
      store_.n_bytes_offered -= waiting_.at(index).payload->size();
      waiting_.erase(index);
      events_.on_outcome(index, outcome);
    }
    void MaybeEnd() {
      if (is_finished_ && waiting_.empty()) End(absl::OkStatus());
    }
    void End(const absl::Status& status) {
      if (std::exchange(is_over_, true)) return;
      while (!waiting_.empty()) Close(waiting_.begin()->first, status);
      events_.on_done(status);
      events_ = {};
    }

    SimulatedStore& store_;
    const absl::Time deadline_;
    PutEvents events_;
    std::map<size_t, PutItem> waiting_;
    size_t n_offered_ = 0;
    bool is_finished_ = false;
    bool is_over_ = false;
  };

  // What the disk says to a put, which memory has taken.
  absl::Status AskDisk(const PutItem& item) const {
    if (!IsDurable(item.ack)) return absl::OkStatus();
    if (!has_disk) return absl::FailedPreconditionError("the store has no disk");
    if (disk_fault.ok() && on_durable) on_durable(item);
    return disk_fault;
  }
  std::vector<ObjectKey> Dropped(const std::vector<PlacedKey>& placed) {
    for (const PlacedKey& one : placed) dropped.push_back(one.key);
    return KeysOf(placed);
  }
  void At(absl::Time when, std::function<void()> task) { pending_.emplace(when, std::move(task)); }

  template <typename Result>
  void Answer(absl::Duration timeout, Done<Result> done, std::function<absl::StatusOr<Result>()> answer,
              absl::Duration more = absl::ZeroDuration()) {
    const auto wait = latency + more;
    if (wait > timeout) return At(clock_.Now() + timeout, [done] { done(absl::DeadlineExceededError("timeout")); });
    At(clock_.Now() + wait, [this, done, answer] { done(down.ok() ? answer() : absl::StatusOr<Result>(down)); });
  }

  ManualClock& clock_;
  std::unique_ptr<Store> store_;
  std::multimap<absl::Time, std::function<void()>> pending_;
};

}  // namespace longshelf::kvstore
