#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>

#include "service_core.h"

namespace longshelf::worker {

// One Watch call: takes from the hub whenever its last write is done. What happens meanwhile is merged there.
class WatchStream final : public grpc::ServerWriteReactor<v1::WatchEvent>,
                          public Pumped,
                          public OpenCall,
                          public std::enable_shared_from_this<WatchStream> {
 public:
  static grpc::ServerWriteReactor<v1::WatchEvent>* Start(ServiceCore& core, grpc::CallbackServerContext& context);
  explicit WatchStream(ServiceCore& core) : core_(core) {}

  void Pump() override;
  void BreakOff(const absl::Status& why) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void FinishOnce(const grpc::Status& status);
  void FinishWhenWritten();

  ServiceCore& core_;
  std::optional<WatchHub::SubscriberId> id_;
  std::shared_ptr<WatchStream> self_;  // until OnDone
  // Guards the flags: the pump and gRPC's threads meet here.
  std::mutex mutex_;
  v1::WatchEvent writing_;
  bool write_in_flight_ = false;
  bool finish_wanted_ = false;
  grpc::Status finish_status_{grpc::StatusCode::CANCELLED, "cancelled"};
  bool finish_started_ = false;
};

}  // namespace longshelf::worker
