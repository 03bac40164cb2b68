#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "engine/comm/communicator.h"
#include "engine/comm/doorbell.h"
#include "engine/executor.h"
#include "engine/model/model.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "longshelf/v1/worker.grpc.pb.h"
#include "worker/node_service.h"

namespace longshelf::worker {

// A KV store node in this process, on a free port.
class RealStore {
 public:
  explicit RealStore(uint64_t capacity_bytes = uint64_t{512} << 20);
  std::string address() const { return "127.0.0.1:" + std::to_string(server_->port()); }
  kvstore::Store& store() { return *store_; }
  // Every state on the way of these blocks; how many there were.
  int DropCheckpoints(const kvstore::Fingerprint& fingerprint, const std::vector<kvstore::BlockKey>& blocks);
  // Stops answering.
  void Kill() { server_.reset(); }
  // As a process that is killed and started again at its address.
  void RestartEmpty();

 private:
  const uint64_t capacity_bytes_;
  SystemClock clock_;
  Metrics metrics_{"store"};
  std::unique_ptr<kvstore::Store> store_;
  std::unique_ptr<kvstore::Server> server_;
};

// What one Generate call gave.
struct Generated {
  v1::Started started;
  std::vector<uint32_t> tokens;
  std::vector<std::string> logits;  // raw bytes, one per token
  v1::Finished finished;
};

struct Ask {
  std::vector<uint32_t> prompt = {};
  std::vector<uint32_t> committed = {};
  uint32_t max_tokens = 4;
  bool no_cache_read = false;
  std::string salt = std::string(32, 's');
  // After each token, with how many there were; false: the client goes away.
  std::function<bool(size_t)> goes_on = nullptr;
};

// A whole worker in this process: real model, real engine on a thread of its own, real gRPC on a free port. With
// config.n_shards > 1 its shards are threads.
class RealWorker {
 public:
  // `store` may be empty.
  RealWorker(std::shared_ptr<const engine::ModelWeights> weights, const std::string& store_address,
             const std::function<void(ShardConfig&)>& change = nullptr);
  ~RealWorker();
  RealWorker(const RealWorker&) = delete;
  RealWorker& operator=(const RealWorker&) = delete;

  // Greedy, with the logits of every token.
  Generated Generate(const Ask& ask);
  absl::StatusOr<v1::ParkReply> Park(const std::vector<uint32_t>& tokens,
                                     const std::string& salt = std::string(32, 's'));
  v1::Worker::Stub& stub() { return *stub_; }
  WorkerNode& node() { return *node_; }
  std::string metrics() const { return metrics_.Serialize(); }
  std::array<uint8_t, 32> fingerprint() const { return fingerprint_; }
  // Everything offered so far has been put, and the queue of the bridge is empty.
  bool WaitUntilOffloaded() const;
  // A counter without labels reaches `at_least`.
  bool WaitForMetric(const std::string& name, double at_least) const;

 private:
  // One shard, on its thread; rank 0 serves until the engine is stopped.
  void RunShard(engine::Communicator& communicator, engine::Doorbell& leader_bell, const std::string& run_dir);
  void Serve(const engine::Model& model, engine::StepRunner& runner, engine::KvCopies& copies, uint32_t n_blocks);

  const std::shared_ptr<const engine::ModelWeights> weights_;
  SystemClock clock_;
  Metrics metrics_{"worker"};
  ShardConfig config_;
  std::array<uint8_t, 32> fingerprint_{};
  std::vector<HomeStore*> homes_;  // by shard; null without a store
  std::unique_ptr<WorkerNode> node_;
  std::promise<void> serving_;
  std::thread thread_;
  std::unique_ptr<v1::Worker::Stub> stub_;
};

// Of a fixture model; mapped once per process.
std::shared_ptr<const engine::ModelWeights> WeightsOf(const std::string& model);

// Pseudo-random tokens of the model's vocabulary.
std::vector<uint32_t> RandomTokens(const engine::ModelConfig& config, size_t n, uint32_t seed);

std::vector<uint32_t> With(std::vector<uint32_t> tokens, const std::vector<uint32_t>& more);

// Equal tokens and bit-equal logits from `skip` on.
void ExpectSame(const Generated& got, const Generated& want, size_t skip = 0);

// The store's name of what ends after n of these tokens: a block, or a checkpoint and its tail.
kvstore::BlockKey StoredKey(const RealWorker& worker, const std::vector<uint32_t>& tokens, size_t n);

}  // namespace longshelf::worker
