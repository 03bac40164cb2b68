#include "worker/node_service.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/build_info.h"
#include "common/ids.h"
#include "common/status.h"
#include "engine/token_stamp.h"
#include "kvstore/cluster_client.h"
#include "kvstore/members.h"

namespace longshelf::worker {

absl::StatusOr<std::unique_ptr<kvstore::Client>> ConnectStore(const ShardConfig& config,
                                                              const std::shared_ptr<net::TlsIdentity>& tls,
                                                              const Clock& clock, Metrics* metrics) {
  if (config.kvstores.empty()) return nullptr;
  kvstore::ClusterOptions options;
  options.stores = absl::StrJoin(config.kvstores, ",");
  options.token = config.token;
  options.tls = tls;
  options.n_replicas = config.n_replicas;
  return kvstore::MakeClusterClient(options, clock, metrics);
}

namespace {

std::string ModelName(const ShardConfig& config) {
  if (!config.model_name.empty()) return config.model_name;
  const std::filesystem::path path = std::filesystem::path(config.model).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

WorkerServiceOptions ServiceOptions(const ShardConfig& config, const NodeModel& model,
                                    std::vector<int64_t> shard_pids) {
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
  options.shard_pids = std::move(shard_pids);
  options.n_sequences_max = config.n_sequences_max * options.n_shards;
  options.allow_logits = config.allow_logits;
  options.constraints = model.constraints;
  options.n_streams_max = options.n_sequences_max + config.n_waiting_max;
  return options;
}

}  // namespace

engine::EngineConfig EngineConfigOf(const ShardConfig& config, const NodeModel& model) {
  engine::EngineConfig out;
  out.n_context_max = model.n_context_max;
  out.step_token_budget = config.step_token_budget;
  out.step_time_budget = config.step_time_budget;
  out.draft_lookup = config.drafts == "auto" || config.drafts == "lookup";
  out.draft_model = config.drafts == "auto" || config.drafts == "model";
  out.n_sequences_max = config.n_sequences_max * static_cast<uint32_t>(config.n_shards);
  out.n_waiting_max = config.n_waiting_max;
  out.checkpoint_interval_tokens = config.checkpoint_interval_tokens;
  out.checkpoint_memory_bytes = config.checkpoint_memory_bytes;
  out.eos_token_id = model.eos_token_id;
  out.vocab_size = model.vocab_size;
  out.export_cache_objects = !config.kvstores.empty();
  return out;
}

namespace {

KvBridgeOptions BridgeOptions(const ShardConfig& config, const NodeModel& model) {
  KvBridgeOptions options;
  options.fingerprint = model.fingerprint;
  options.block_bytes = model.block_bytes + engine::kStampBytes;
  options.state_bytes = [bytes = model.state_export_bytes](int64_t n_tokens) {
    return bytes(n_tokens) + engine::kStampBytes;
  };
  options.state_bytes_max = model.state_export_bytes_max + engine::kStampBytes;
  options.memory_bytes = config.store_memory_bytes;
  options.replay_tokens = model.replay_tokens;
  options.n_replicas = config.n_replicas;
  return options;
}

std::vector<HomeStore*> AllHomes(HomeStore& own, std::vector<HomeStore*> others) {
  others.insert(others.begin(), &own);
  return others;
}

}  // namespace

absl::Status CheckEdgeConfig(const ShardConfig& config) {
  RETURN_IF_ERROR(
      proto::CheckListenAddress(config.listen, !config.token.empty() || !config.tls.empty(), config.insecure_internal));
  if (!config.token.empty()) RETURN_IF_ERROR(proto::SharedToken::FromString(config.token).status());
  return kvstore::CheckStores(absl::StrJoin(config.kvstores, ","));
}

absl::Status CheckStoreMemory(const ShardConfig& config, const NodeModel& model) {
  const uint64_t n_min = BridgeOptions(config, model).MemoryMin();
  if (config.kvstores.empty() || config.store_memory_bytes >= n_min) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--store-memory is ", config.store_memory_bytes,
                                                 " bytes; this model needs at least ", n_min,
                                                 " for a state and a few blocks in each direction"));
}

NodeModel DescribeModel(const engine::Model& model, int64_t n_context_max) {
  NodeModel out;
  out.fingerprint = model.fingerprint();
  out.kernel_isa = std::string(model.kernels());
  out.numerics = std::string(engine::NumericsName(model.numerics()));
  out.vocab_size = static_cast<uint32_t>(model.config().vocab_size);
  out.eos_token_id = model.config().eos_token_id;
  out.n_context_max = n_context_max;
  out.block_bytes = model.layout().block_bytes();
  out.replay_tokens = model.replay_tokens();
  out.state_export_bytes_max = model.layout().StateExportBytesMax();
  out.state_export_bytes = [&model](int64_t n_tokens) { return model.layout().StateExportBytes(n_tokens); };
  return out;
}

void WorkerNode::Observer::OnLoad(const engine::Load& load) {
  node_.n_turns_.fetch_add(1, std::memory_order_relaxed);
  node_.hub_.OnLoad(load);
  node_.metrics_.SetLoad(load);
  if (node_.bridge_ != nullptr) node_.bridge_->SetPrefillSpeed(load.prefill);
}

void WorkerNode::Observer::OnCheckpointsChanged(std::vector<engine::CachedCheckpoint> gained,
                                                std::vector<engine::PrefixKey> lost) {
  node_.hub_.OnCheckpointsChanged(gained, lost);
}

void WorkerNode::Observer::OnCacheObjects(const engine::CacheChain& chain, std::vector<engine::ParkedObject> objects) {
  if (node_.bridge_ != nullptr) node_.bridge_->Offload(chain, std::move(objects));
}

void WorkerNode::Observer::OnCheckpointsDropped(const engine::CacheChain& chain, std::vector<engine::PrefixKey> keys) {
  if (node_.bridge_ != nullptr) node_.bridge_->DropCheckpoints(chain, keys);
}

absl::StatusOr<std::unique_ptr<WorkerNode>> WorkerNode::Create(const ShardConfig& config, const NodeModel& model,
                                                               std::vector<int64_t> shard_pids, Clock& clock,
                                                               Metrics& metrics, engine::StepRunner& runner, NodeKv kv,
                                                               std::shared_ptr<net::TlsIdentity> tls) {
  RETURN_IF_ERROR(CheckEdgeConfig(config));
  RETURN_IF_ERROR(CheckStoreMemory(config, model));
  if (!proto::IsLoopback(config.listen) && config.token.empty() && tls == nullptr) {
    spdlog::warn("--insecure-internal: {} accepts anybody who can reach it", config.listen);
  }
  WorkerServiceOptions options = ServiceOptions(config, model, std::move(shard_pids));
  ASSIGN_OR_RETURN(options.callers, proto::CallerRules::Make(config.token, tls != nullptr, net::kCallersOfWorker));
  ASSIGN_OR_RETURN(std::unique_ptr<kvstore::Client> store, ConnectStore(config, tls, clock, &metrics));
  const std::string who = options.worker_id;
  const std::string what = options.model_name;
  auto node = std::make_unique<WorkerNode>(std::move(options), model, config, std::move(store), clock, metrics, runner,
                                           std::move(kv));
  ASSIGN_OR_RETURN(node->server_, WorkerServer::Start(config.listen, node->service_, tls));
  spdlog::info("worker {} has {} on port {}: context {}, {} sequence(s), {} shard(s), {} kernels", who, what,
               node->server_->port(), model.n_context_max, config.n_sequences_max, config.n_shards, model.kernel_isa);
  return node;
}

WorkerNode::WorkerNode(WorkerServiceOptions options, const NodeModel& model, const ShardConfig& config,
                       std::unique_ptr<kvstore::Client> store, Clock& clock, Metrics& metrics,
                       engine::StepRunner& runner, NodeKv kv)
    : inbox_(2 * options.n_streams_max + 64),
      metrics_(metrics),
      runner_(clock, metrics_, runner),
      hasher_(model.fingerprint),
      observer_(*this),
      engine_(EngineConfigOf(config, model), runner_, hasher_, clock, inbox_, observer_),
      store_(std::move(store)),
      own_home_(store_ == nullptr ? nullptr : MakeHomeStore(*store_, kv.copies)),
      bridge_(store_ == nullptr ? nullptr
                                : std::make_unique<KvBridge>(BridgeOptions(config, model), clock, *store_,
                                                             AllHomes(*own_home_, std::move(kv.others)),
                                                             engine_.copies(), inbox_, metrics_)),
      service_(std::move(options), clock, inbox_, hub_, metrics_, bridge_.get()) {
  if (bridge_ != nullptr) bridge_thread_ = std::thread([this] { bridge_->Run(); });
}

WorkerNode::~WorkerNode() { Shutdown(absl::ZeroDuration()); }

absl::Status WorkerNode::RunEngine() {
  server_->SetServing(true);
  const absl::Status ended = engine_.Run();
  server_->SetServing(false);
  // Whoever still posts is told at once; who posted after the engine's last look at its inbox is told here. A message
  // that is dropped answers for itself, except a Submit.
  inbox_.Close();
  for (engine::EngineMessage& message : inbox_.Drain(std::chrono::milliseconds(0))) {
    if (auto* submit = std::get_if<engine::Submit>(&message)) {
      submit->request.sink->OnEvent(engine::Failed{absl::UnavailableError("this worker's engine has ended")});
    }
  }
  return ended;
}

void WorkerNode::Drain(std::function<void()> on_drained) {
  server_->SetServing(false);
  service_.Drain(std::move(on_drained));
}

void WorkerNode::BreakOff(const std::string& words, absl::Duration limit) {
  server_->SetServing(false);
  if (!service_.BreakOff(words, limit)) spdlog::warn("not every stream was told why it ends");
}

void WorkerNode::Shutdown(absl::Duration grace) {
  inbox_.Close();
  // The server waits for its calls, and they may wait for a store that does not answer.
  if (bridge_ != nullptr) bridge_->Abandon();
  if (server_ != nullptr) server_->Shutdown(grace);
  server_.reset();
  if (bridge_thread_.joinable()) {
    bridge_->Stop();
    bridge_thread_.join();
  }
  bridge_.reset();
}

}  // namespace longshelf::worker
