#include "attach_client.h"

#include <string>

#include "forms_service.h"
#include "proto/grpc_status.h"
#include "proto/internal_auth.h"

namespace longshelf::worker {

void AttachCall::Start(v1::StoreLink::Stub& stub, std::string_view key, const v1::StoreHello& hello) {
  proto::AddToken(context_, key);
  stub.async()->Attach(&context_, this);
  AddHold();
  *reports_.mutable_hello() = hello;
  StartWrite(&reports_);
  StartRead(&orders_);
  StartCall();
}

void AttachCall::OnReadDone(bool ok) {
  loop_->Post([this, ok] { OnRead(ok); });
}

void AttachCall::OnWriteDone(bool ok) {
  loop_->Post([this, ok] { OnWritten(ok); });
}

void AttachCall::OnDone(const grpc::Status& status) {
  // Ours when this returns: the call may be gone by then.
  const std::shared_ptr<TaskLoop> loop = loop_;
  loop->Post([this, status = proto::FromGrpc(status)] { events_.on_end(broken_.ok() ? status : broken_); });
}

void AttachCall::OnRead(bool ok) {
  if (!ok || !holds_) return DropHold();
  broken_ = events_.on_orders(orders_);
  if (broken_.ok()) return StartRead(&orders_);
  context_.TryCancel();
  DropHold();
}

void AttachCall::OnWritten(bool ok) {
  if (!ok) return;  // what the leader sent before the end is still to be read
  is_writing_ = false;
  WriteNext();
}

void AttachCall::Report(v1::StoreReport report) {
  if (!holds_) return;
  unsent_.push_back(std::move(report));
  WriteNext();
}

void AttachCall::WriteNext() {
  if (is_writing_ || !holds_ || unsent_.empty()) return;
  reports_.Clear();
  size_t n_bytes = 0;
  for (; !unsent_.empty() && n_bytes < kBatchBytes && reports_.reports_size() < kBatchMax; unsent_.pop_front()) {
    n_bytes += unsent_.front().ByteSizeLong();
    *reports_.add_reports() = std::move(unsent_.front());
  }
  is_writing_ = true;
  StartWrite(&reports_);
}

void AttachCall::DropHold() {
  if (std::exchange(holds_, false)) RemoveHold();
}

}  // namespace longshelf::worker
