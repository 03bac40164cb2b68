#include "upload.h"

#include <algorithm>
#include <atomic>

#include "common/status.h"
#include "engine/model/kv_layout.h"
#include "put_item.h"

namespace longshelf::worker {
namespace {

// Blocks read from the engine and not yet acknowledged.
constexpr uint64_t kBlocksOnTheWay = 8;
// A put stream takes so many objects, then another one goes on.
constexpr size_t kOffersPerCall = 1024;
// A store that has no memory now is asked again after this.
constexpr absl::Duration kBusyPause = absl::Milliseconds(100);
// A store that has had no memory for so long is full, not busy.
constexpr absl::Duration kBusyMax = absl::Seconds(10);
// What is to be parked is held so much longer than it may take: clocks differ.
constexpr absl::Duration kHoldMargin = absl::Minutes(1);

absl::Status NoRoomToPark() {
  return absl::ResourceExhaustedError("the parked share is full: raise --parked-share or --memory");
}

}  // namespace

// The engine's side: as much room as the lease has for blocks that are not acknowledged.
class Upload::Sink final : public engine::BlockSink {
 public:
  Sink(std::weak_ptr<Upload> upload, std::shared_ptr<TaskLoop> loop, int64_t n_room)
      : upload_(std::move(upload)), loop_(std::move(loop)), n_room_(n_room) {}

  int64_t n_room() override { return is_closed_ ? -1 : n_room_.load(); }
  void OnBlock(engine::ParkedObject block) override {
    n_room_.fetch_sub(1);
    auto shared = std::make_shared<engine::ParkedObject>(std::move(block));
    loop_->Post([upload = upload_, shared] {
      if (const auto self = upload.lock()) self->OnBlock(std::move(*shared));
    });
  }
  void OnEnd(const absl::Status& status) override {
    loop_->Post([upload = upload_, status] {
      if (const auto self = upload.lock()) self->OnBlocksEnd(status);
    });
  }

  // True: there was none.
  bool MakeRoom() { return n_room_.fetch_add(1) == 0; }
  void Close() { is_closed_ = true; }

 private:
  const std::weak_ptr<Upload> upload_;
  const std::shared_ptr<TaskLoop> loop_;
  std::atomic<int64_t> n_room_;
  std::atomic<bool> is_closed_{false};
};

void Upload::Start() {
  last_progress_ = core_.clock.Now();
  deadline_ = last_progress_ + order_.timeout;
  held_until_ = std::min(order_.retain_until, core_.clock.WallNow() + order_.timeout + kHoldMargin);
  core_.loop->At(deadline_, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self != nullptr)
      self->BreakOff(absl::DeadlineExceededError("the KV store did not acknowledge every object in time"));
  });
  kvstore::LookupQuery query;
  query.fingerprint = core_.options.fingerprint;
  query.root = order_.root;
  query.chain = order_.blocks;
  query.probes = {order_.at.key};
  Ask();
  core_.store.Lookup(
      query, std::min(core_.options.put_timeout, TimeLeft()),
      [self = shared_from_this(), loop = core_.loop](const absl::StatusOr<kvstore::LookupResult>& found) {
        loop->Post([self, found] { self->OnLookup(found); });
      });
}

void Upload::OnLookup(const absl::StatusOr<kvstore::LookupResult>& found) {
  if (done_ == nullptr) return;
  if (!found.ok()) return BreakOff(found.status());
  Hear();
  const size_t n_present = std::min<size_t>(found->n_present, order_.blocks.size());
  if (is_parking()) return HoldPresent(0, n_present);
  const bool has_state =
      std::any_of(found->checkpoints.begin(), found->checkpoints.end(), [this](const kvstore::CheckpointInfo& info) {
        return info.hash == order_.at.key && (info.has_tail || order_.at.n_tokens % engine::kBlockTokens == 0);
      });
  if (has_state && n_present == order_.blocks.size()) return End(absl::OkStatus());
  TakeLease(n_present);
}

kvstore::TouchQuery Upload::RetentionOf(size_t first, size_t end, absl::Time until) const {
  kvstore::TouchQuery query;
  query.retain_until = until;
  query.ack = MemoryAck();
  query.n_replicas = order_.n_replicas;
  for (size_t i = first; i < std::min(end, order_.blocks.size()); ++i) {
    query.keys.push_back({.key = {order_.blocks[i], kvstore::ObjectKind::kBlock},
                          .extent = kvstore::ExtentOf(order_.root, order_.blocks, (i + 1) * engine::kBlockTokens)});
  }
  return query;
}

// What is there already only has to be promised to stay.
void Upload::HoldPresent(size_t first, size_t end) {
  if (first == end) return TakeLease(end);
  const size_t n_keys = std::min(end - first, kvstore::kMaxKeysPerCall);
  Ask();
  core_.store.Touch(RetentionOf(first, first + n_keys, held_until_), std::min(core_.options.put_timeout, TimeLeft()),
                    [self = shared_from_this(), loop = core_.loop, first, end,
                     n_keys](const absl::StatusOr<kvstore::TouchResult>& touched) {
                      loop->Post([self, touched, first, end, n_keys] {
                        if (self->done_ == nullptr) return;
                        if (!touched.ok()) return self->BreakOff(touched.status());
                        self->Hear();
                        if (touched->n_refused > 0) return self->End(NoRoomToPark());
                        // Some went meanwhile, or are on too few nodes: from there on all are offered, and those that
                        // are there say so.
                        const auto gap = std::find(touched->retained.begin(), touched->retained.end(), false);
                        const auto n_retained = static_cast<size_t>(gap - touched->retained.begin());
                        if (n_retained < n_keys) return self->TakeLease(first + n_retained);
                        self->HoldPresent(first + n_keys, end);
                      });
                    });
}

void Upload::Retain(size_t first, absl::Time until) {
  kvstore::TouchQuery query = RetentionOf(first, first + kvstore::kMaxKeysPerCall - at_end_.size(), until);
  query.ack = order_.ack;
  const size_t next = first + query.keys.size();
  Ask();
  if (next == order_.blocks.size()) query.keys.insert(query.keys.end(), at_end_.begin(), at_end_.end());
  // Whose disk has much to write answers late, and is well.
  waits_for_disks_ = kvstore::IsDurable(order_.ack);
  const absl::Duration timeout = waits_for_disks_ ? TimeLeft() : std::min(core_.options.put_timeout, TimeLeft());
  core_.store.Touch(
      std::move(query), timeout,
      [self = shared_from_this(), loop = core_.loop, next, until](const absl::StatusOr<kvstore::TouchResult>& touched) {
        loop->Post([self, touched, next, until] { self->OnRetained(next, until, touched); });
      });
}

void Upload::OnRetained(size_t next, absl::Time until, const absl::StatusOr<kvstore::TouchResult>& touched) {
  if (done_ == nullptr) return;
  if (!touched.ok()) return BreakOff(touched.status());
  Hear();
  if (std::find(touched->retained.begin(), touched->retained.end(), false) != touched->retained.end()) {
    return End(kvstore::IsDurable(order_.ack)
                   ? absl::ResourceExhaustedError("the KV store's disks did not take everything: no --disk, a full "
                                                  "--disk-parked-share, or a failed device")
                   : absl::UnavailableError("a KV store lost what it had taken; try again"));
  }
  if (next < order_.blocks.size()) return Retain(next, until);
  until < order_.retain_until ? Retain(0, order_.retain_until) : End(absl::OkStatus());
}

void Upload::TakeLease(size_t first) {
  const uint64_t block_bytes = core_.options.block_bytes;
  const uint64_t n_affordable = std::clamp<uint64_t>(core_.options.memory_bytes / 16 / block_bytes, 1, kBlocksOnTheWay);
  // A large state leaves the way out room for few blocks, but for one at least (MemoryMin).
  const uint64_t n_fit = (core_.budget.n_max(ByteBudget::Way::kOut) - core_.options.state_bytes_max) / block_bytes - 1;
  const uint64_t n_blocks = std::clamp<uint64_t>(order_.blocks.size() - first, 1, std::min(n_affordable, n_fit));
  core_.budget.Take(ByteBudget::Way::kOut, core_.options.state_bytes_max + (1 + n_blocks) * block_bytes,
                    [self = shared_from_this(), first](const std::shared_ptr<ByteBudget::Lease>& lease) {
                      if (self->done_ == nullptr) return;
                      self->lease_ = lease;
                      self->SendBlocks(first);
                    });
}

void Upload::SendBlocks(size_t first) {
  // It may have queued behind other parks for long.
  last_progress_ = core_.clock.Now();
  RollCall();
  const int64_t n_room = static_cast<int64_t>(
      (lease_->n_bytes() - core_.options.state_bytes_max - core_.options.block_bytes) / core_.options.block_bytes);
  sink_ = std::make_shared<Sink>(weak_from_this(), core_.loop, n_room);
  engine::ExportBlocks message{.root = order_.root, .keys = order_.blocks, .first = first, .sink = sink_};
  result_.n_objects = first;
  result_.n_bytes = first * core_.options.block_bytes;
  if (!core_.engine_inbox.Post(std::move(message))) {
    End(absl::UnavailableError("the engine's inbox is full; try again later"));
  }
}

void Upload::OnBlock(engine::ParkedObject block) {
  if (done_ == nullptr || !refusal_.ok()) return;
  ++result_.n_blocks_sent;
  Offer(std::move(block));
}

void Upload::OnBlocksEnd(const absl::Status& status) {
  if (done_ == nullptr || !refusal_.ok()) return;
  if (!status.ok()) return Refuse(status);
  engine::FindCheckpoint message{
      .key = order_.at.key,
      .reply = [self = shared_from_this(), loop = core_.loop](const absl::StatusOr<engine::FoundPrefix>& found) {
        loop->Post([self, found] { self->SendState(found); });
      }};
  if (!core_.engine_inbox.Post(std::move(message))) {
    End(absl::UnavailableError("the engine's inbox is full; try again later"));
  }
}

void Upload::SendState(const absl::StatusOr<engine::FoundPrefix>& found) {
  if (done_ == nullptr || !refusal_.ok()) return;
  // The blocks alone are worth keeping too: another checkpoint of the chain may be there.
  if (!found.ok() && is_parking()) return Refuse(found.status());
  if (found.ok()) {
    using Kind = engine::ParkedObject::Kind;
    const engine::CachedCheckpoint& at = order_.at;
    if (found->tail != nullptr) Offer({Kind::kTail, at.key, at.parent, at.n_tokens, found->tail});
    Offer({Kind::kCheckpoint, at.key, at.parent, at.n_tokens, found->state});
  }
  all_offered_ = true;
  MaybeEnd();
}

void Upload::Offer(engine::ParkedObject object) {
  ++result_.n_objects;
  result_.n_bytes += object.copy->n_bytes();
  Homes::PutItem item =
      MakePutItem(core_.options.fingerprint, object, order_.namespace_id,
                  kvstore::ExtentOf(order_.root, order_.blocks, static_cast<uint64_t>(object.n_tokens)));
  if (object.kind != engine::ParkedObject::Kind::kBlock) at_end_.push_back({item.head.key, item.head.extent});
  item.n_replicas = order_.n_replicas;
  if (is_parking()) item.ack = MemoryAck();
  item.head.object_class = order_.object_class;
  item.head.retain_until = held_until_;
  OfferItem(std::move(item));
}

void Upload::RollCall() {
  if (call_ != 0) calls_.at(call_).put->Finish();
  const uint32_t number = ++call_;
  kvstore::Client::PutEvents events;
  events.on_outcome = [self = shared_from_this(), loop = core_.loop, number](
                          size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
    loop->Post([self, number, index, outcome] { self->OnOutcome(number, index, outcome); });
  };
  events.on_done = [self = shared_from_this(), loop = core_.loop, number](const absl::Status& status) {
    loop->Post([self, number, status] { self->OnCallDone(number, status); });
  };
  // The call is there before anything is heard of it: that comes as tasks.
  calls_[number].put = core_.homes.Put(TimeLeft(), std::move(events));
}

void Upload::OfferItem(Homes::PutItem item) {
  if (calls_.at(call_).n_offered >= kOffersPerCall) RollCall();
  Call& call = calls_.at(call_);
  call.offered.emplace(call.n_offered++, item);
  Ask();
  call.put->Offer(std::move(item));
}

void Upload::OnOutcome(uint32_t number, size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
  if (done_ == nullptr) return;
  auto& offered = calls_.at(number).offered;
  const auto it = offered.find(index);
  if (it == offered.end()) return;
  Homes::PutItem item = std::move(it->second);
  offered.erase(it);
  if (!absl::IsDeadlineExceeded(outcome.status())) Hear();
  if (absl::IsUnavailable(outcome.status())) {
    // No memory right now, or the stream broke: then OnCallDone says so before the pause is over.
    const bool has_waited = core_.clock.Now() - last_progress_ > kBusyMax;
    if (!is_parking() || has_waited || !refusal_.ok()) return Refuse(outcome.status());
    ++n_waiting_;
    core_.loop->At(core_.clock.Now() + kBusyPause, [self = shared_from_this(), again = std::move(item)] {
      if (self->done_ == nullptr || !self->refusal_.ok()) return;
      --self->n_waiting_;
      self->OfferItem(again);
      self->MaybeEnd();
    });
    return;
  }
  if (!outcome.ok()) return Refuse(outcome.status());
  last_progress_ = core_.clock.Now();
  if (outcome->conflicts) core_.metrics.DigestConflict();
  core_.metrics.OffloadDone(outcome->existed ? "existed" : "stored", item.copy->n_bytes());
  if (item.head.key.kind == kvstore::ObjectKind::kBlock) {
    if (sink_->MakeRoom()) core_.WakeEngine();
  }
  MaybeEnd();
}

void Upload::OnCallDone(uint32_t number, const absl::Status& status) {
  if (done_ == nullptr) return;
  if (!status.ok()) return BreakOff(status);
  calls_.erase(number);
  if (!refusal_.ok() && calls_.empty()) End(refusal_);
}

void Upload::Refuse(const absl::Status& status) {
  if (!refusal_.ok()) return;
  refusal_ = status;
  sink_->Close();
  for (auto& [number, call] : calls_) call.put->Finish();
}

void Upload::MaybeEnd() {
  if (!all_offered_ || n_waiting_ > 0 || !refusal_.ok()) return;
  if (HasOffers()) return;
  if (!is_parking()) return End(absl::OkStatus());
  Retain(0, kvstore::IsDurable(order_.ack) ? held_until_ : order_.retain_until);
}

bool Upload::HasOffers() const {
  return std::any_of(calls_.begin(), calls_.end(), [](const auto& call) { return !call.second.offered.empty(); });
}

void Upload::Hear() {
  was_answered_ = true;
  asked_at_ = HasOffers() ? core_.clock.Now() : absl::InfiniteFuture();
}

void Upload::BreakOff(const absl::Status& status) {
  if (done_ == nullptr) return;
  // A deadline is the caller's. It tells of the store when that has had time, and left everything unanswered; but disks
  // may take any time.
  const bool was_early = waits_for_disks_ || core_.clock.Now() - asked_at_ < core_.options.put_timeout / 2;
  is_broken_off_ = IsStoreDown(status) && !(absl::IsDeadlineExceeded(status) && was_early);
  if (is_broken_off_) core_.breaker_out.Failed(core_.clock.Now());
  End(status);
}

void Upload::End(const absl::Status& status) {
  const auto self = shared_from_this();  // until the end of this call
  const Done done = std::exchange(done_, nullptr);
  if (done == nullptr) return;
  if (sink_ != nullptr) sink_->Close();
  for (auto& [number, call] : calls_) {
    if (status.ok()) {
      call.put->Finish();
    } else {
      call.put->Cancel();
    }
  }
  calls_.clear();
  if (!is_broken_off_ && was_answered_) core_.breaker_out.Answered(absl::ZeroDuration());
  lease_.reset();
  status.ok() ? done(result_) : done(status);
}

}  // namespace longshelf::worker
