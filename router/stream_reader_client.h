#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "proto/grpc_status.h"

namespace longshelf::router {

// One server stream read event by event, its news brought to the router loop. The object keeps itself alive until gRPC
// is done with it, and touches its callbacks on the loop only, so whoever owns it may let go at any time there.
template <typename Message>
class StreamReader final : public grpc::ClientReadReactor<Message> {
 public:
  struct Callbacks {
    std::function<void(const Message&)> on_message;
    std::function<void(const absl::Status&)> on_closed;
  };

  // For Begin.
  StreamReader(boost::asio::io_context& loop, Callbacks callbacks)
      : loop_(loop), work_(loop.get_executor()), callbacks_(std::move(callbacks)) {}
  // `begin` starts the call: stub->async()->Method(&context, &request, reactor).
  static std::shared_ptr<StreamReader> Begin(boost::asio::io_context& loop, Callbacks callbacks,
                                             const std::function<void(grpc::ClientContext&, StreamReader*)>& begin) {
    auto reader = std::make_shared<StreamReader>(loop, std::move(callbacks));
    reader->self_ = reader;
    begin(reader->context_, reader.get());
    reader->AddHold();  // reads are started from the loop, outside of gRPC's own callbacks
    reader->StartCall();
    return reader;
  }

  // Asks for one message. Loop only.
  void RequestNext() {
    if (reading_ || hold_released_) return;
    reading_ = true;
    this->StartRead(&message_);
  }

  // Nothing is reported from here on, and the call is cancelled. Loop only.
  void Detach() {
    callbacks_ = {};
    detached_ = true;
    context_.TryCancel();
    if (!reading_) ReleaseHold();
  }

  void OnReadDone(bool ok) override {
    boost::asio::post(loop_, [self = self_, ok] { self->OnReadDoneOnLoop(ok); });
  }
  void OnDone(const grpc::Status& status) override {
    boost::asio::post(loop_, [self = std::exchange(self_, nullptr), status = proto::FromGrpc(status)] {
      const auto on_closed = std::exchange(self->callbacks_, {}).on_closed;
      if (on_closed) on_closed(status);
    });
  }

 private:
  void OnReadDoneOnLoop(bool ok) {
    reading_ = false;
    if (!ok || detached_) return ReleaseHold();
    if (callbacks_.on_message) {
      const auto on_message = callbacks_.on_message;  // the callback may detach
      on_message(message_);
    }
  }
  void ReleaseHold() {
    if (!std::exchange(hold_released_, true)) this->RemoveHold();
  }

  boost::asio::io_context& loop_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;  // our last news finds the loop
  grpc::ClientContext context_;
  Callbacks callbacks_;
  Message message_;
  std::shared_ptr<StreamReader> self_;  // until OnDone
  bool reading_ = false;
  bool detached_ = false;
  bool hold_released_ = false;
};

}  // namespace longshelf::router
