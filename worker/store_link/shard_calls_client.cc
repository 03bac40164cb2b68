#include "shard_calls_client.h"

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "forms_service.h"

namespace longshelf::worker {

absl::Status ShardCalls::Execute(const v1::StoreOrders& orders) {
  if (orders.orders_size() < 1 || orders.orders_size() > kBatchMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", orders.orders_size(), " orders, must be 1 .. ", kBatchMax));
  }
  for (const v1::StoreOrder& order : orders.orders()) RETURN_IF_ERROR(Execute(order));
  return absl::OkStatus();
}

absl::Status ShardCalls::Execute(const v1::StoreOrder& order) {
  if (order.has_get()) return StartGet(order.call(), order.get());
  if (order.has_put()) return StartPut(order.call(), order.put());
  if (order.call() > last_id_) return absl::InvalidArgumentError(absl::StrCat("call ", order.call(), " never began"));
  const auto call = calls_.find(order.call());
  if (call == calls_.end()) return absl::OkStatus();  // it has ended, and the leader does not know yet
  return Continue(call->second, order);
}

absl::Status ShardCalls::CheckNew(uint64_t id) const {
  if (id <= last_id_) return absl::InvalidArgumentError(absl::StrCat("call ", id, " is not new"));
  if (calls_.size() < kCallsMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("more than ", kCallsMax, " calls at once"));
}

absl::Status ShardCalls::StartGet(uint64_t id, const v1::StoreGet& wire) {
  RETURN_IF_ERROR(CheckNew(id));
  ASSIGN_OR_RETURN(HomeStore::GetRequest request, GetFromWire(wire));
  last_id_ = id;
  Call& call = calls_[id];
  // The store may keep these a moment longer than we are here: what they post is dropped then.
  HomeStore::GetEvents events;
  events.on_object = [this, id, loop = loop_](size_t index, const absl::StatusOr<engine::EncodedStamp>& object) {
    loop->Post([this, id, index, object] { OnObject(id, index, object); });
  };
  events.on_done = [this, id, loop = loop_](const absl::Status& status) {
    loop->Post([this, id, status] { OnDone(id, status); });
  };
  call.get = local_.Get(std::move(request), std::move(events));
  return absl::OkStatus();
}

absl::Status ShardCalls::StartPut(uint64_t id, const v1::StorePut& wire) {
  RETURN_IF_ERROR(CheckNew(id));
  ASSIGN_OR_RETURN(const absl::Duration timeout, TimeoutFromWire(wire.timeout_us()));
  last_id_ = id;
  Call& call = calls_[id];
  kvstore::Client::PutEvents events;
  events.on_outcome = [this, id, loop = loop_](size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
    loop->Post([this, id, index, outcome] { OnOutcome(id, index, outcome); });
  };
  events.on_done = [this, id, loop = loop_](const absl::Status& status) {
    loop->Post([this, id, status] { OnDone(id, status); });
  };
  call.put = local_.Put(timeout, std::move(events));
  return absl::OkStatus();
}

absl::Status ShardCalls::Continue(Call& call, const v1::StoreOrder& order) {
  const bool is_get = call.get != nullptr;
  switch (order.order_case()) {
    case v1::StoreOrder::kRelease:
      if (!is_get) break;
      call.get->Release(order.release().bytes());
      return absl::OkStatus();
    case v1::StoreOrder::kOffer:
      if (is_get) break;
      return Offer(call, order.offer());
    case v1::StoreOrder::kFinish:
      if (is_get) break;
      call.put->Finish();
      return absl::OkStatus();
    case v1::StoreOrder::kCancel:
      is_get ? call.get->Cancel() : call.put->Cancel();
      return absl::OkStatus();
    default:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat("order ", static_cast<int>(order.order_case()), " to call ",
                                                 order.call(), ", which is a ", is_get ? "get" : "put"));
}

absl::Status ShardCalls::Offer(Call& call, const v1::StoreOffer& wire) {
  ASSIGN_OR_RETURN(HomeStore::PutItem item, OfferFromWire(wire));
  if (!call.indices.empty() && wire.index() <= call.indices.back()) {
    return absl::InvalidArgumentError(absl::StrCat("offer ", wire.index(), " is not new"));
  }
  call.indices.push_back(wire.index());
  call.put->Offer(std::move(item));
  return absl::OkStatus();
}

void ShardCalls::CancelAll() {
  for (const auto& [id, call] : calls_) call.get != nullptr ? call.get->Cancel() : call.put->Cancel();
}

void ShardCalls::OnObject(uint64_t id, size_t index, const absl::StatusOr<engine::EncodedStamp>& object) {
  v1::StoreReport report;
  report.set_call(id);
  ObjectToWire(index, object, report.mutable_object());
  report_(std::move(report));
}

void ShardCalls::OnOutcome(uint64_t id, size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
  v1::StoreReport report;
  report.set_call(id);
  OutcomeToWire(calls_.at(id).indices.at(index), outcome, report.mutable_outcome());
  report_(std::move(report));
}

void ShardCalls::OnDone(uint64_t id, const absl::Status& status) {
  calls_.erase(id);
  v1::StoreReport report;
  report.set_call(id);
  DoneToWire(status, report.mutable_done());
  report_(std::move(report));
}

}  // namespace longshelf::worker
