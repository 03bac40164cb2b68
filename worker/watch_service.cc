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
    FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
  } else {
    Pump();
  }
}

void WatchStream::OnCancel() { FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled")); }

void WatchStream::FinishOnce(const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    finish_wanted_ = true;
    if (write_in_flight_ || std::exchange(finish_started_, true)) return;
  }
  Finish(status);
}

void WatchStream::OnDone() {
  if (id_.has_value()) {
    core_.pump.RemoveTicked(*id_);
    core_.hub.Unsubscribe(*id_);
    core_.metrics.SetSubscribers(core_.hub.n_subscribers(), core_.hub.n_resyncs());
  }
  const std::shared_ptr<WatchStream> last = std::move(self_);
}

}  // namespace longshelf::worker
