#include "get_client.h"

#include <algorithm>
#include <utility>

#include "kvstore/wire_service.h"
#include "proto/grpc_status.h"

namespace longshelf::kvstore {

GetCallReactor::GetCallReactor(std::shared_ptr<CallRegistry> calls, Client::GetRequest request,
                               Client::GetEvents events)
    : calls_(std::move(calls)),
      request_(std::move(request)),
      events_(std::move(events)),
      receiver_(request_.fingerprint, request_.items,
                [this](size_t index, absl::StatusOr<FetchedObject> object) { Deliver(index, std::move(object)); }),
      n_unreleased_(request_.unreleased_bytes) {}

void GetCallReactor::Start(gpr_timespec deadline) {
  wire_.set_fingerprint(HashToWire(request_.fingerprint));
  wire_.mutable_keys()->Reserve(static_cast<int>(request_.items.size()));
  for (const GetItem& item : request_.items) wire_.add_keys(PlacedKeyToWire(item.key, item.extent));
  AddHold();
  StartWriteLast(&wire_, grpc::WriteOptions());
  StartRead(&frame_);
  at_deadline_.Set(deadline, [weak = weak_from_this()](bool passed) {
    const std::shared_ptr<GetCallReactor> self = weak.lock();
    if (!passed || self == nullptr) return;
    std::lock_guard lock(self->mutex_);
    self->DropHold();
  });
  StartCall();
}

void GetCallReactor::Release(uint64_t n_bytes) {
  std::lock_guard lock(mutex_);
  n_unreleased_ -= std::min(n_bytes, n_unreleased_);
  if (!paused_ || !holds_ || !HasRoom()) return;
  paused_ = false;
  StartRead(&frame_);
}

void GetCallReactor::Cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (context_.has_value()) context_->TryCancel();
  DropHold();
}

void GetCallReactor::DropHold() {
  if (std::exchange(holds_, false)) RemoveHold();
}

void GetCallReactor::OnReadDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    if (!ok || cancelled_) return DropHold();
  }
  const absl::Status understood = receiver_.OnFrame(frame_);
  frame_.Clear();
  std::lock_guard lock(mutex_);
  if (!understood.ok()) {
    broken_ = understood;
    context_->TryCancel();
    return DropHold();
  }
  next_bytes_ = receiver_.next_bytes();
  if (HasRoom()) return StartRead(&frame_);
  paused_ = true;
}

void GetCallReactor::Deliver(size_t index, absl::StatusOr<FetchedObject> object) {
  if (object.ok()) {
    std::lock_guard lock(mutex_);
    n_unreleased_ += object->payload.size();
  }
  events_.on_object(index, std::move(object));
}

void GetCallReactor::OnDone(const grpc::Status& status) {
  absl::Status broken;
  {
    std::lock_guard lock(mutex_);
    broken = broken_;
    if (broken.ok() && cancelled_ && !receiver_.complete()) broken = absl::CancelledError("cancelled by its caller");
  }
  if (broken.ok()) broken = proto::FromGrpc(status);
  if (broken.ok() && !receiver_.complete()) {
    broken = absl::InternalError("the store answered for fewer objects than were asked for");
  }
  End(broken);
}

void GetCallReactor::End(const absl::Status& status) {
  receiver_.Fail(status);
  events_.on_done(status);
  events_ = {};
  {
    std::lock_guard lock(mutex_);
    context_.reset();
  }
  const std::shared_ptr<CallRegistry> calls = calls_;
  calls->Remove(*this);
}

}  // namespace longshelf::kvstore
