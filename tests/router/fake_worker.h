#pragma once

#include <grpcpp/server.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "longshelf/v1/worker.grpc.pb.h"

namespace longshelf::router::testing {

// What a fake worker answers. Every worker with the same tokens plays the same model.
struct Script {
  std::vector<uint32_t> tokens = {};             // the output, whatever the prompt
  std::optional<uint32_t> fails_at = {};         // the call breaks instead of sending this index
  std::optional<uint32_t> fails_at_scored = {};  // the same before a prompt token's logprob
  bool held = false;                             // nothing is sent before Release()
  bool begins_held = false;                      // with held: the call is begun, and then nothing is sent
  std::optional<uint32_t> holds_at = {};         // with held: what comes before this index is sent
  bool full = false;                             // RESOURCE_EXHAUSTED
  uint32_t n_cached = 0;
  std::optional<uint64_t> likely_seed = {};  // what is drawn with this seed is likelier
  std::vector<uint32_t> progress = {};       // tokens done, reported one by one once the call is begun
};

// worker.proto over a script, served by real gRPC inside this process.
class FakeWorker final : public v1::Worker::CallbackService {
 public:
  explicit FakeWorker(Script script, uint8_t fingerprint = 1, uint32_t n_context_max = 8192);
  ~FakeWorker() override;
  std::shared_ptr<grpc::Channel> Channel();

  void SetScript(Script script);
  // Lets held streams go on.
  void Release();
  // Blocks until so many Generate calls came, were cancelled; false after ten seconds.
  bool AwaitCalls(size_t n);
  bool AwaitCancelled(size_t n);
  size_t n_tokens_sent() const;
  std::vector<v1::WorkerGenerateRequest> requests() const;
  // Parks are answered with all tokens and this key; without one they are refused: nothing is held.
  void SetCheckpointKey(std::optional<std::string> key);
  std::vector<v1::ParkRequest> parks() const;
  // Parks that come from now on are answered by ReleaseParks, with the key of now.
  void HoldParks(bool held);
  void ReleaseParks();
  bool AwaitParks(size_t n);  // that came

  grpc::ServerWriteReactor<v1::WorkerGenerateEvent>* Generate(grpc::CallbackServerContext* context,
                                                              const v1::WorkerGenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::WatchEvent>* Watch(grpc::CallbackServerContext* context,
                                                  const v1::WatchRequest* request) override;
  grpc::ServerUnaryReactor* Park(grpc::CallbackServerContext* context, const v1::ParkRequest* request,
                                 v1::ParkReply* reply) override;
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::WorkerStatusRequest* request,
                                   v1::WorkerStatusReply* reply) override;

 private:
  class GenerateStream;
  class WatchStream;
  struct HeldPark {
    grpc::ServerUnaryReactor* reactor;
    grpc::Status status;
  };

  const uint8_t fingerprint_;
  const uint32_t n_context_max_;
  // Guards what the test and gRPC's threads share; a message would not let the test look at it.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Script script_;
  std::vector<v1::WorkerGenerateRequest> requests_;
  std::vector<v1::ParkRequest> parks_;
  std::optional<std::string> checkpoint_key_;
  std::vector<HeldPark> held_parks_;
  bool are_parks_held_ = false;
  std::set<std::shared_ptr<GenerateStream>> held_;
  std::set<WatchStream*> watches_;
  size_t n_cancelled_ = 0;
  size_t n_tokens_sent_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace longshelf::router::testing
