#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "service_core.h"

namespace longshelf::worker {

// One Generate call. The engine thread appends events to a bounded buffer; one write is in flight at a time; a client
// that does not read until the buffer is full has its sequence cancelled, and nobody else notices. Ends with exactly
// one Finished event and OK, or with an error status.
//
// Owners: itself from Start to OnDone, the engine while the sequence lives, the pump while output is due, the bridge
// while a prefix is fetched. The mutex guards what the engine thread, the pump and gRPC's threads touch.
class GenerateStream final : public grpc::ServerWriteReactor<v1::WorkerGenerateEvent>,
                             public engine::EventSink,
                             public Pumped,
                             public OpenCall,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  static grpc::ServerWriteReactor<v1::WorkerGenerateEvent>* Start(ServiceCore& core,
                                                                  grpc::CallbackServerContext& context,
                                                                  const v1::WorkerGenerateRequest& request);
  GenerateStream(ServiceCore& core, grpc::CallbackServerContext& context);

  void OnEvent(engine::SequenceEvent event) override;  // engine thread
  void Pump() override;
  void BreakOff(const absl::Status& why) override { EndWith(why, "failed"); }
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // What to do once the mutex is released.
  struct Action {
    bool write = false;
    bool cancel_sequence = false;
    std::optional<grpc::Status> finish;
  };

  void Begin(const v1::WorkerGenerateRequest& request);
  absl::Status ReadOutputForm(const v1::WorkerGenerateRequest& request);
  void Submit(RestoreOutcome outcome);
  void EndWith(const absl::Status& status, std::string_view result);
  Action NextLocked();
  void Do(const Action& action);
  void MarkEndedLocked(std::string_view result);
  void LosePeerLocked();  // nothing more can be delivered
  void TimeTokenLocked();
  bool IsProgressDueLocked();

  ServiceCore& core_;
  grpc::CallbackServerContext& context_;
  const uint64_t id_;
  const absl::Time accepted_at_;
  uint32_t epoch_ = 0;
  std::shared_ptr<std::atomic<bool>> restore_cancelled_;
  std::shared_ptr<GenerateStream> self_;  // until OnDone

  std::mutex mutex_;
  engine::SequenceRequest request_;  // until it is submitted
  std::deque<engine::SequenceEvent> buffer_;
  size_t buffered_bytes_ = 0;
  v1::WorkerGenerateEvent writing_;
  std::optional<grpc::Status> terminal_;  // status after the last event
  std::optional<absl::Time> last_token_at_;
  absl::Time next_progress_at_ = absl::InfinitePast();
  bool pump_posted_ = false;
  bool write_in_flight_ = false;
  bool submitted_ = false;  // the engine will end it
  bool engine_ended_ = false;
  bool cancel_wanted_ = false;  // tell the engine
  bool cancel_sent_ = false;
  bool peer_gone_ = false;
  bool too_slow_ = false;
  bool try_cancelled_ = false;
  bool finish_started_ = false;
  bool ended_ = false;  // counted
};

}  // namespace longshelf::worker
