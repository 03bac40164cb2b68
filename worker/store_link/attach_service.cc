#include "attach_service.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "proto/grpc_status.h"

namespace longshelf::worker {

AttachStream* AttachStream::Start(LinkHub& hub, const grpc::CallbackServerContext& context) {
  auto stream = std::make_shared<AttachStream>(hub, context.peer());
  stream->self_ = stream;
  const grpc::Status status = hub.callers.Check(context);
  if (status.ok()) {
    stream->StartRead(&stream->reports_);
  } else {
    stream->Break(proto::FromGrpc(status));
  }
  return stream.get();
}

void AttachStream::OnReadDone(bool ok) {
  loop_->Post([self = shared_from_this(), ok] { self->OnRead(ok); });
}

void AttachStream::OnWriteDone(bool ok) {
  loop_->Post([self = shared_from_this(), ok] { self->OnWritten(ok); });
}

void AttachStream::OnDone() { const std::shared_ptr<AttachStream> last = std::move(self_); }

void AttachStream::OnRead(bool ok) {
  if (has_ended_) return;
  if (!ok) return Break(absl::UnavailableError("its process or its host is gone, or the connection"));
  const absl::Status status = store_ == nullptr ? OnHello(reports_) : store_->OnReports(reports_);
  if (!status.ok()) return Break(status);
  if (!has_ended_) StartRead(&reports_);
}

void AttachStream::OnWritten(bool ok) {
  if (has_ended_) return;
  // The read says why.
  if (ok) store_->OnWritten();
}

absl::Status AttachStream::OnHello(const v1::StoreReports& first) {
  if (!first.has_hello() || first.reports_size() > 0) {
    return absl::InvalidArgumentError("the first message must be a hello and nothing else");
  }
  const v1::StoreHello& hello = first.hello();
  if (hello.generation() != hub_.generation) {
    return absl::FailedPreconditionError(absl::StrCat("the shard is of generation ", hello.generation(),
                                                      " of the group, its leader of ", hub_.generation));
  }
  if (hello.rank() < 1 || hello.rank() > hub_.stores.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank: ", hello.rank(), ", must be 1 .. ", hub_.stores.size(), " in this group"));
  }
  RemoteStore& store = *hub_.stores[hello.rank() - 1];
  // Known first: attaching writes what is queued.
  store_ = &store;
  const absl::Status attached = store.Attach(*this);
  if (!attached.ok()) store_ = nullptr;
  return attached;
}

void AttachStream::Break(const absl::Status& why) {
  if (store_ == nullptr) {
    if (const auto n_passed_over = hub_.refused.Open(absl::Now())) {
      spdlog::warn("{} is not let in as a shard: {} ({} more since the last)", peer_, std::string(why.message()),
                   *n_passed_over);
    }
  } else {
    store_->OnBroken(why);
  }
  End(why);
}

void AttachStream::Write(v1::StoreOrders orders) {
  orders_ = std::move(orders);
  StartWrite(&orders_);
}

void AttachStream::End(const absl::Status& status) {
  if (std::exchange(has_ended_, true)) return;
  Finish(proto::ToGrpc(status));
}

}  // namespace longshelf::worker
