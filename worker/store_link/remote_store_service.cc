#include "remote_store_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "forms_service.h"

namespace longshelf::worker {
namespace {

// What a caller holds of a call: the call goes on without it.
class GetHandle final : public kvstore::Client::GetCall {
 public:
  GetHandle(RemoteStore& store, std::weak_ptr<RemoteGet> call, std::shared_ptr<TaskLoop> loop)
      : store_(store), call_(std::move(call)), loop_(std::move(loop)) {}
  void Release(uint64_t n_bytes) override {
    loop_->Post([&store = store_, weak = call_, n_bytes] {
      if (const auto call = weak.lock()) store.Release(*call, n_bytes);
    });
  }
  void Cancel() override {
    loop_->Post([&store = store_, weak = call_] {
      if (const auto call = weak.lock()) store.Cancel(*call);
    });
  }

 private:
  RemoteStore& store_;  // there while the loop runs tasks
  const std::weak_ptr<RemoteGet> call_;
  const std::shared_ptr<TaskLoop> loop_;
};

class PutHandle final : public HomeStore::PutCall {
 public:
  PutHandle(RemoteStore& store, std::weak_ptr<RemotePut> call, std::shared_ptr<TaskLoop> loop)
      : store_(store), call_(std::move(call)), loop_(std::move(loop)) {}
  void Offer(HomeStore::PutItem item) override {
    loop_->Post([&store = store_, weak = call_, item = std::move(item)] {
      if (const auto call = weak.lock()) store.Offer(*call, item);
    });
  }
  void Finish() override {
    loop_->Post([&store = store_, weak = call_] {
      if (const auto call = weak.lock()) store.Finish(*call);
    });
  }
  void Cancel() override {
    loop_->Post([&store = store_, weak = call_] {
      if (const auto call = weak.lock()) store.Cancel(*call);
    });
  }

 private:
  RemoteStore& store_;
  const std::weak_ptr<RemotePut> call_;
  const std::shared_ptr<TaskLoop> loop_;
};

}  // namespace

std::shared_ptr<kvstore::Client::GetCall> RemoteStore::Get(GetRequest request, GetEvents events) {
  LONGSHELF_CHECK(request.copies.size() == request.objects.items.size());
  const auto call = std::make_shared<RemoteGet>(request.objects.items.size(), std::move(events));
  call->deadline = loop_->Now() + request.objects.timeout;
  v1::StoreOrder order;
  const absl::Status status = CheckGet(request);
  if (status.ok()) GetToWire(request, order.mutable_get());
  loop_->Post([this, call, status, order = std::move(order)]() mutable {
    if (!status.ok()) return End(*call, status);
    Begin(call, std::move(order));
  });
  return std::make_shared<GetHandle>(*this, call, loop_);
}

std::shared_ptr<HomeStore::PutCall> RemoteStore::Put(absl::Duration timeout, kvstore::Client::PutEvents events) {
  const auto call = std::make_shared<RemotePut>(std::move(events));
  call->deadline = loop_->Now() + timeout;
  loop_->Post([this, call] {
    v1::StoreOrder order;
    order.mutable_put();
    Begin(call, std::move(order));
  });
  return std::make_shared<PutHandle>(*this, call, loop_);
}

absl::Status RemoteStore::Attach(OrderStream& stream) {
  if (stream_ != nullptr) return absl::AlreadyExistsError(absl::StrCat("shard ", rank_, " is attached already"));
  RETURN_IF_ERROR(ended_);
  stream_ = &stream;
  WriteNext();
  return absl::OkStatus();
}

void RemoteStore::Begin(const CallPtr& call, v1::StoreOrder order) {
  if (!ended_.ok()) return End(*call, ended_);
  if (calls_.size() >= kCallsMax) {
    return End(*call, absl::ResourceExhaustedError(absl::StrCat(kCallsMax, " calls are open on shard ", rank_)));
  }
  call->id = ++last_id_;
  calls_.emplace(call->id, call);
  Order(*call, std::move(order));
  if (call->has_begun) return;
  loop_->At(call->deadline, [this, weak = std::weak_ptr(call)] {
    const CallPtr late = weak.lock();
    if (late == nullptr || late->has_begun) return;
    End(*late, absl::DeadlineExceededError(absl::StrCat("shard ", rank_, " took no orders in time")));
  });
}

void RemoteStore::Order(RemoteCall& call, v1::StoreOrder order) {
  order.set_call(call.id);
  call.unsent.push_back(std::move(order));
  if (!std::exchange(call.is_ready, true)) ready_.push_back(call.id);
  WriteNext();
}

void RemoteStore::WriteNext() {
  if (stream_ == nullptr || is_writing_) return;
  v1::StoreOrders orders;
  size_t n_bytes = 0;
  while (!ready_.empty() && n_bytes < kBatchBytes && orders.orders_size() < kBatchMax) {
    const auto ready = calls_.find(ready_.front());
    ready_.pop_front();
    if (ready == calls_.end()) continue;
    RemoteCall& call = *ready->second;
    TakeUnsent(call, orders, n_bytes);
    call.is_ready = !call.unsent.empty();
    if (call.is_ready) ready_.push_back(call.id);
  }
  if (orders.orders_size() == 0) return;
  is_writing_ = true;
  stream_->Write(std::move(orders));
}

void RemoteStore::TakeUnsent(RemoteCall& call, v1::StoreOrders& orders, size_t& n_bytes) {
  while (!call.unsent.empty() && n_bytes < kBatchBytes && orders.orders_size() < kBatchMax) {
    v1::StoreOrder& order = *orders.add_orders();
    order = std::move(call.unsent.front());
    call.unsent.pop_front();
    if (!std::exchange(call.has_begun, true)) {
      const uint64_t left_us = TimeoutToWire(call.deadline - loop_->Now());
      if (order.has_get()) order.mutable_get()->set_timeout_us(left_us);
      if (order.has_put()) order.mutable_put()->set_timeout_us(left_us);
    }
    n_bytes += order.ByteSizeLong();
  }
}

void RemoteStore::OnWritten() {
  is_writing_ = false;
  WriteNext();
}

absl::Status RemoteStore::OnReports(const v1::StoreReports& reports) {
  if (reports.has_hello() || reports.reports_size() < 1 || reports.reports_size() > kBatchMax) {
    return absl::InvalidArgumentError(absl::StrCat("a message of ", reports.reports_size(), " reports, must be 1 .. ",
                                                   kBatchMax, reports.has_hello() ? ", and a second hello" : ""));
  }
  for (const v1::StoreReport& report : reports.reports()) RETURN_IF_ERROR(OnReport(report));
  return absl::OkStatus();
}

absl::Status RemoteStore::OnReport(const v1::StoreReport& report) {
  const auto found = calls_.find(report.call());
  if (found == calls_.end() || !found->second->has_begun) {
    return absl::InvalidArgumentError(absl::StrCat("call ", report.call(), " is not open"));
  }
  const CallPtr call = found->second;
  if (!report.has_done()) return call->OnReport(report);
  const absl::Status status = DoneFromWire(report.done());
  if (status.ok() && !call->complete()) {
    return absl::InvalidArgumentError(absl::StrCat("call ", call->id, " is said to be done and is not"));
  }
  End(*call, status);
  return absl::OkStatus();
}

void RemoteStore::OnBroken(const absl::Status& why) {
  stream_ = nullptr;
  EndAll(absl::UnavailableError(absl::StrCat("the link to shard ", rank_, " ended: ", std::string(why.message()))));
}

void RemoteStore::Close() {
  OrderStream* const stream = std::exchange(stream_, nullptr);
  EndAll(absl::CancelledError("the leader needs the other shards' stores no more"));
  if (stream != nullptr) stream->End(absl::OkStatus());
}

void RemoteStore::EndAll(const absl::Status& status) {
  if (ended_.ok()) ended_ = status;
  for (const auto& [id, call] : std::exchange(calls_, {})) End(*call, status);
}

void RemoteStore::End(RemoteCall& call, const absl::Status& status) {
  if (std::exchange(call.has_ended, true)) return;
  const auto found = calls_.find(call.id);
  const CallPtr last = found == calls_.end() ? nullptr : found->second;
  if (last != nullptr) calls_.erase(found);
  call.End(status);
}

void RemoteStore::Release(RemoteCall& get, uint64_t n_bytes) {
  if (get.has_ended || get.is_cancelled) return;
  if (!get.unsent.empty() && get.unsent.back().has_release()) {
    v1::StoreRelease& unsent = *get.unsent.back().mutable_release();
    unsent.set_bytes(unsent.bytes() + std::min(n_bytes, UINT64_MAX - unsent.bytes()));
    return;
  }
  v1::StoreOrder order;
  order.mutable_release()->set_bytes(n_bytes);
  Order(get, std::move(order));
}

void RemoteStore::Offer(RemotePut& put, const PutItem& item) {
  if (put.has_ended || put.is_cancelled || put.is_finished) return;
  const size_t index = put.n_offered();
  if (const absl::Status status = CheckOffer(item, index); !status.ok()) return put.Refuse(status);
  put.Expect();
  v1::StoreOrder order;
  OfferToWire(item, index, order.mutable_offer());
  Order(put, std::move(order));
}

void RemoteStore::Finish(RemotePut& put) {
  if (put.has_ended || put.is_cancelled || std::exchange(put.is_finished, true)) return;
  v1::StoreOrder order;
  order.mutable_finish();
  Order(put, std::move(order));
}

void RemoteStore::Cancel(RemoteCall& call) {
  if (call.has_ended || std::exchange(call.is_cancelled, true)) return;
  if (!call.has_begun) return End(call, absl::CancelledError("cancelled by its caller"));
  call.unsent.clear();
  v1::StoreOrder order;
  order.mutable_cancel();
  Order(call, std::move(order));
}

}  // namespace longshelf::worker
