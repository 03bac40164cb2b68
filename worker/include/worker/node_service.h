#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mailbox.h"
#include "common/metrics.h"
#include "engine/engine.h"
#include "engine/kv_copies.h"
#include "engine/model/model.h"
#include "engine/observer.h"
#include "worker/bridge/kv_bridge.h"
#include "worker/home_store/home_store.h"
#include "worker/prefix_hasher.h"
#include "worker/shard_config.h"
#include "worker/worker_service.h"

namespace longshelf::worker {

// What a worker says of its loaded model, and must know of it to exchange KV.
struct NodeModel {
  std::array<uint8_t, 32> fingerprint{};
  std::string kernel_isa;
  std::string numerics;
  uint32_t vocab_size = 0;
  uint32_t eos_token_id = 0;
  int64_t n_context_max = 0;
  uint64_t block_bytes = 0;
  std::function<uint64_t(int64_t n_tokens)> state_export_bytes;
  uint64_t state_export_bytes_max = 0;
  int64_t replay_tokens = 0;                                        // Model::replay_tokens
  std::shared_ptr<grammar::ConstraintCache> constraints = nullptr;  // of its tokenizer; the executor's
};
// `model` must outlive what is returned.
NodeModel DescribeModel(const engine::Model& model, int64_t n_context_max);

// The engine's part of the options.
engine::EngineConfig EngineConfigOf(const ShardConfig& config, const NodeModel& model);

// What can be known to be wrong before a model is loaded. FAILED_PRECONDITION: the listen rule forbids config.listen.
// INVALID_ARGUMENT: a token or a store address that cannot be one.
absl::Status CheckEdgeConfig(const ShardConfig& config);
// INVALID_ARGUMENT: --store-memory cannot hold what one transfer needs of this model.
absl::Status CheckStoreMemory(const ShardConfig& config, const NodeModel& model);

// A shard's way to the KV store of config.kvstores; null when there is none. INVALID_ARGUMENT: as CheckEdgeConfig.
absl::StatusOr<std::unique_ptr<kvstore::Client>> ConnectStore(const ShardConfig& config,
                                                              const std::shared_ptr<net::TlsIdentity>& tls,
                                                              const Clock& clock, Metrics* metrics);

// Where the KV of a worker is: with its shards.
struct NodeKv {
  engine::KvCopies& copies;             // of shard 0, in this process
  std::vector<HomeStore*> others = {};  // the other shards', from 1 on; none are needed without a KV store
};

// One worker put together: engine, KV bridge and gRPC edge around a step runner. Created and run on the engine thread;
// the rest may be called from anywhere.
class WorkerNode {
 public:
  // Listens at once, with health NOT_SERVING; `tls` is what config.tls names. As CheckEdgeConfig, and UNAVAILABLE:
  // cannot listen. What `kv` names outlives the node.
  static absl::StatusOr<std::unique_ptr<WorkerNode>> Create(const ShardConfig& config, const NodeModel& model,
                                                            std::vector<int64_t> shard_pids, Clock& clock,
                                                            Metrics& metrics, engine::StepRunner& runner, NodeKv kv,
                                                            std::shared_ptr<net::TlsIdentity> tls = nullptr);
  // Use Create.
  WorkerNode(WorkerServiceOptions options, const NodeModel& model, const ShardConfig& config,
             std::unique_ptr<kvstore::Client> store, Clock& clock, Metrics& metrics, engine::StepRunner& runner,
             NodeKv kv);
  // Shuts down. REQUIRES: RunEngine is not running.
  ~WorkerNode();
  WorkerNode(const WorkerNode&) = delete;
  WorkerNode& operator=(const WorkerNode&) = delete;

  // The engine's loop; serving while it runs. OK after StopEngine, otherwise why a step failed.
  absl::Status RunEngine();
  // RunEngine returns soon; running sequences are cancelled.
  void StopEngine() { inbox_.Close(); }

  // Nothing new is admitted and health says NOT_SERVING. `on_drained` as WorkerService::Drain's.
  void Drain(std::function<void()> on_drained);
  // The group has failed: health says NOT_SERVING, and every call ends as WorkerService::BreakOff's. Any thread, beside
  // RunEngine too.
  void BreakOff(const std::string& words, absl::Duration limit);
  // Ends the RPC edge and flushes what is still to be put.
  void Shutdown(absl::Duration grace);

  WorkerServer& server() { return *server_; }
  size_t n_streams() const { return service_.n_streams(); }
  engine::Load load() const { return hub_.load(); }

  // How often the engine's loop has turned, with work or a message. TurnEngine makes it turn soon when it is idle.
  uint64_t n_turns() const { return n_turns_.load(std::memory_order_relaxed); }
  void TurnEngine() { inbox_.Post(engine::Wake{}); }

 private:
  // What the engine says goes to the watchers, the metrics and the KV store. Engine thread.
  class Observer final : public engine::EngineObserver {
   public:
    explicit Observer(WorkerNode& node) : node_(node) {}
    void OnLoad(const engine::Load& load) override;
    void OnCheckpointsChanged(std::vector<engine::CachedCheckpoint> gained,
                              std::vector<engine::PrefixKey> lost) override;
    void OnCacheObjects(const engine::CacheChain& chain, std::vector<engine::ParkedObject> objects) override;
    void OnCheckpointsDropped(const engine::CacheChain& chain, std::vector<engine::PrefixKey> keys) override;

   private:
    WorkerNode& node_;
  };

  Mailbox<engine::EngineMessage> inbox_;
  WatchHub hub_;
  WorkerMetrics metrics_;
  MeteredStepRunner runner_;
  const KvPrefixHasher hasher_;
  std::atomic<uint64_t> n_turns_{0};
  Observer observer_;
  engine::Engine engine_;
  const std::unique_ptr<kvstore::Client> store_;  // null: no KV store
  const std::unique_ptr<HomeStore> own_home_;     // the same, of shard 0
  std::unique_ptr<KvBridge> bridge_;              // null: no KV store
  std::thread bridge_thread_;                     // turns it
  WorkerService service_;
  std::unique_ptr<WorkerServer> server_;
};

}  // namespace longshelf::worker
