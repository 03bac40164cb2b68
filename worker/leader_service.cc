#include <spdlog/spdlog.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/ids.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"
#include "engine/engine.h"
#include "leader.h"
#include "worker/kv_bridge.h"
#include "worker/prefix_hasher.h"
#include "worker/worker_service.h"

namespace longshelf::worker {
namespace {

// What the engine says goes to the watchers, the metrics and the KV store. Engine thread.
class Observer final : public engine::EngineObserver {
 public:
  Observer(WatchHub& hub, WorkerMetrics& metrics) : hub_(hub), metrics_(metrics) {}
  void set_bridge(KvBridge* bridge) { bridge_ = bridge; }
  void OnLoad(const engine::Load& load) override {
    hub_.OnLoad(load);
    metrics_.SetLoad(load);
  }
  void OnCheckpointsChanged(std::vector<engine::CachedCheckpoint> gained,
                            std::vector<engine::PrefixKey> lost) override {
    hub_.OnCheckpointsChanged(gained, lost);
  }
  void OnCacheObjects(std::string_view namespace_id, std::vector<engine::ParkedObject> objects) override {
    if (bridge_ != nullptr) bridge_->Offload(namespace_id, std::move(objects));
  }

 private:
  WatchHub& hub_;
  WorkerMetrics& metrics_;
  KvBridge* bridge_ = nullptr;
};

absl::StatusOr<std::unique_ptr<kvstore::Client>> ConnectStore(const ShardConfig& config) {
  if (config.kvstores.empty()) return nullptr;
  if (config.kvstores.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kvstore names ", config.kvstores.size(), " nodes; this version uses one"));
  }
  return kvstore::MakeClient({config.kvstores.front(), config.token});
}

absl::StatusOr<std::optional<proto::SharedToken>> TokenOf(const ShardConfig& config) {
  if (config.token.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(proto::SharedToken token, proto::SharedToken::FromString(config.token));
  return token;
}

std::string ModelName(const ShardConfig& config) {
  if (!config.model_name.empty()) return config.model_name;
  const std::filesystem::path path = std::filesystem::path(config.model).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

WorkerServiceOptions ServiceOptions(const ShardConfig& config, const LeaderModel& model,
                                    std::optional<proto::SharedToken> token) {
  WorkerServiceOptions options;
  options.worker_id = config.worker_id.empty() ? absl::StrCat("worker-", RandomId().substr(0, 8)) : config.worker_id;
  options.model_name = ModelName(config);
  options.fingerprint = model.fingerprint;
  options.vocab_size = model.vocab_size;
  options.n_context_max = model.n_context_max;
  options.n_shards = static_cast<uint32_t>(config.n_shards);
  options.generation = config.generation;
  options.kernel_isa = model.kernel_isa;
  options.numerics = model.numerics;
  options.version = GetBuildInfo().version;
  options.shard_pids = model.shard_pids;
  options.n_sequences_max = config.n_sequences_max * options.n_shards;
  options.allow_logits = config.allow_logits;
  options.token = std::move(token);
  options.n_streams_max = options.n_sequences_max + config.n_waiting_max;
  return options;
}

engine::EngineConfig EngineConfigOf(const ShardConfig& config, const LeaderModel& model, bool has_store) {
  engine::EngineConfig out;
  out.n_context_max = model.n_context_max;
  out.step_token_budget = config.step_token_budget;
  out.n_sequences_max = config.n_sequences_max * static_cast<uint32_t>(config.n_shards);
  out.n_waiting_max = config.n_waiting_max;
  out.checkpoint_interval_tokens = config.checkpoint_interval_tokens;
  out.checkpoint_memory_bytes = config.checkpoint_memory_bytes;
  out.eos_token_id = model.eos_token_id;
  out.vocab_size = model.vocab_size;
  out.export_cache_objects = has_store;
  return out;
}

KvBridgeOptions BridgeOptions(const LeaderModel& model) {
  KvBridgeOptions options;
  options.fingerprint = model.fingerprint;
  options.block_bytes = model.block_bytes;
  options.state_bytes = model.state_export_bytes;
  return options;
}

// Waits for the signal that ends this worker, beside the engine thread.
class ControlThread {
 public:
  // All must outlive it.
  ControlThread(const LeaderContext& context, WorkerService& service, WorkerServer& server,
                Mailbox<engine::EngineMessage>& inbox)
      : signals_(context.signals), thread_([this, &context, &service, &server, &inbox] {
          const auto end = RunUntilStopped(
              context.signals,
              [&] {
                spdlog::info("draining; {} stream(s) are open", service.n_streams());
                context.load_state.Set(LoadState::Phase::kDraining);
                server.SetServing(false);
                service.Drain([&context] { context.signals.Wake(); });
                if (engine_ended_.load()) context.signals.Wake();
              },
              context.config.drain_timeout);
          if (end == ShutdownSignals::Event::kTimeout) {
            spdlog::warn("drain timeout; {} stream(s) are cut off", service.n_streams());
          }
          inbox.Close();
        }) {}
  // The engine has ended, by a signal or by itself.
  ~ControlThread() {
    engine_ended_.store(true);
    signals_.Wake();
    thread_.join();
  }
  ControlThread(const ControlThread&) = delete;
  ControlThread& operator=(const ControlThread&) = delete;

 private:
  std::atomic<bool> engine_ended_{false};
  ShutdownSignals& signals_;
  std::thread thread_;
};

}  // namespace

absl::Status RunLeader(const LeaderContext& context, const LeaderModel& model, engine::StepRunner& runner) {
  const ShardConfig& config = context.config;
  RETURN_IF_ERROR(proto::CheckListenAddress(config.listen, !config.token.empty(), config.insecure_internal));
  if (!proto::IsLoopback(config.listen) && config.token.empty()) {
    spdlog::warn("--insecure-internal: {} accepts anybody who can reach it", config.listen);
  }
  ASSIGN_OR_RETURN(std::optional<proto::SharedToken> token, TokenOf(config));
  ASSIGN_OR_RETURN(const std::unique_ptr<kvstore::Client> store, ConnectStore(config));

  const WorkerServiceOptions options = ServiceOptions(config, model, std::move(token));
  Mailbox<engine::EngineMessage> inbox(2 * options.n_streams_max + 64);
  WatchHub hub;
  WorkerMetrics metrics(context.metrics);
  MeteredStepRunner metered(context.clock, metrics, runner);
  const KvPrefixHasher hasher(model.fingerprint);
  Observer observer(hub, metrics);
  const engine::EngineConfig engine_config = EngineConfigOf(config, model, store != nullptr);
  engine::Engine engine(engine_config, context.clock, metered, hasher, inbox, observer);
  std::unique_ptr<KvBridge> bridge;
  if (store != nullptr) {
    bridge = std::make_unique<KvBridge>(BridgeOptions(model), context.clock, *store, inbox, metrics);
    observer.set_bridge(bridge.get());
  }
  WorkerService service(options, context.clock, inbox, hub, metrics, bridge.get());
  ASSIGN_OR_RETURN(const std::unique_ptr<WorkerServer> server, WorkerServer::Start(config.listen, service));
  spdlog::info("worker {} serves {} on port {}: context {}, {} sequence(s), {} shard(s), {} kernels", options.worker_id,
               options.model_name, server->port(), options.n_context_max, options.n_sequences_max, options.n_shards,
               options.kernel_isa);

  absl::Status ended;
  {
    const ControlThread control(context, service, *server, inbox);
    server->SetServing(true);
    context.load_state.Set(LoadState::Phase::kServing);
    if (!config.run_dir.empty()) ended = engine::WriteReady(config.run_dir);
    if (ended.ok()) ended = engine.Run();
    context.load_state.Set(LoadState::Phase::kDraining);
    inbox.Close();
  }
  server->SetServing(false);
  server->Shutdown(absl::Seconds(1));
  bridge.reset();
  return ended;
}

}  // namespace longshelf::worker
