#include "watch_service.h"

#include <utility>

#include "proto/grpc_status.h"

namespace longshelf::worker {

grpc::ServerWriteReactor<v1::WatchEvent>* WatchStream::Start(ServiceCore& core, grpc::CallbackServerContext& context) {
  auto stream = std::make_shared<WatchStream>(core);
  stream->self_ = stream;
  if (const grpc::Status allowed = core.Authorize(context); !allowed.ok()) {
    stream->FinishOnce(allowed);
    return stream.get();
  }
  if (const absl::Status broken = core.calls.Add(stream); !broken.ok()) {
    stream->FinishOnce(proto::ToGrpc(broken));
    return stream.get();
  }
  const auto id = core.hub.Subscribe();
  if (!id.ok()) {
    stream->FinishOnce(proto::ToGrpc(id.status()));
    return stream.get();
  }
  stream->id_ = *id;
  core.metrics.SetSubscribers(core.hub.n_subscribers(), core.hub.n_resyncs());
  core.pump.AddTicked(*id, stream);
  return stream.get();
}

void WatchStream::Pump() {
  {
    std::lock_guard lock(mutex_);
    if (write_in_flight_ || finish_wanted_) return;
    const auto update = core_.hub.Next(*id_, core_.clock.Now());
    if (!update.has_value()) return;
    writing_ = ToProto(*update, core_.options.generation, core_.options.n_sequences_max);
    write_in_flight_ = true;
  }
  StartWrite(&writing_);
}

void WatchStream::OnWriteDone(bool ok) {
  bool finish = false;
  {
    std::lock_guard lock(mutex_);
    write_in_flight_ = false;
    if (!ok) finish_wanted_ = true;
    finish = finish_wanted_;
  }
  if (finish) {
    FinishWhenWritten();
  } else {
    Pump();
  }
}

void WatchStream::OnCancel() { FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled")); }
void WatchStream::BreakOff(const absl::Status& why) { FinishOnce(proto::ToGrpc(why)); }

void WatchStream::FinishOnce(const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (!std::exchange(finish_wanted_, true)) finish_status_ = status;
  }
  FinishWhenWritten();
}

void WatchStream::FinishWhenWritten() {
  grpc::Status status;
  {
    std::lock_guard lock(mutex_);
    if (write_in_flight_ || std::exchange(finish_started_, true)) return;
    status = finish_status_;
  }
  Finish(status);
}

void WatchStream::OnDone() {
  core_.calls.Remove(this);
  if (id_.has_value()) {
    core_.pump.RemoveTicked(*id_);
    core_.hub.Unsubscribe(*id_);
    core_.metrics.SetSubscribers(core_.hub.n_subscribers(), core_.hub.n_resyncs());
  }
  const std::shared_ptr<WatchStream> last = std::move(self_);
}

}  // namespace longshelf::worker
