#include "shard.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/build_info.h"
#include "common/check.h"
#include "common/metrics.h"
#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "engine/comm/run_dir.h"
#include "engine/executor.h"
#include "engine/group_digests.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"
#include "engine/shard_group.h"
#include "engine/token_stamp.h"
#include "exchange_metrics.h"
#include "grammar/constraint.h"
#include "group_end.h"
#include "group_stores.h"
#include "leader.h"
#include "load_state.h"
#include "memory_check.h"
#include "process/available_processors.h"
#include "storage_reads.h"
#include "tokenizer/tokenizer.h"
#include "worker/node_service.h"

namespace longshelf::worker {
namespace {

static_assert(kDraftTokensMax == engine::kDraftTokensLimit);

engine::Numerics NumericsOf(const ShardConfig& config) {
  return config.numerics == "fp32" ? engine::Numerics::kFp32 : engine::Numerics::kNative;
}

int64_t DraftMaxOf(const ShardConfig& config) { return config.drafts == "none" ? 0 : config.n_draft_max; }

// The draft module to run. FAILED_PRECONDITION: --drafts=model, and the checkpoint has none.
absl::StatusOr<engine::DrafterKind> DrafterOf(const ShardConfig& config, const engine::ModelConfig& model) {
  if (config.drafts != "auto" && config.drafts != "model") return engine::DrafterKind::kNone;
  if (model.dspark.n_stages > 0) return engine::DrafterKind::kDspark;
  if (model.n_mtp_layers > 0) return engine::DrafterKind::kMtp;
  if (config.drafts == "auto") return engine::DrafterKind::kNone;
  return absl::FailedPreconditionError(
      "--drafts=model, but this checkpoint has no draft module (mtp.* tensors); use lookup or auto");
}

using engine::kBlockTokens;

// Also through links; what cannot be read is said when it is loaded.
uint64_t BytesOfTensorFiles(const std::filesystem::path& dir) {
  uint64_t n_bytes = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    std::error_code unreadable;
    const uintmax_t size = std::filesystem::file_size(it->path(), unreadable);
    if (!unreadable && it->path().extension() == ".safetensors") n_bytes += size;
  }
  return n_bytes;
}

// Looks at a flag before a shard gives its processor away: some tens of microseconds.
constexpr int kSpins = 2000;
// Of one host.
constexpr double kBarrierSecondsMax = 1e-3;
constexpr absl::Duration kGroupExitDeadline = absl::Seconds(10);

// R = 1: marks progress layer by layer, so that a long step is told from a hung one.
class WatchedTransport final : public engine::ForwardingExpertTransport {
 public:
  WatchedTransport(engine::ExpertTransport& inner, engine::GroupWatch& watch)
      : engine::ForwardingExpertTransport(inner), watch_(watch) {}
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const engine::ExpertAssignment> assignments) override {
    watch_.MarkProgress();
    return engine::ForwardingExpertTransport::BeginDispatch(lane, layer, rows, row_bytes, assignments);
  }
  absl::Status BeginCombine(int lane) override {
    watch_.MarkProgress();
    return engine::ForwardingExpertTransport::BeginCombine(lane);
  }

 private:
  engine::GroupWatch& watch_;
};

class WatchedStepRunner final : public engine::StepRunner {
 public:
  WatchedStepRunner(engine::GroupWatch& watch, engine::Executor& executor) : watch_(watch), inner_(executor) {}
  engine::GroupShape shape() const override { return inner_.shape(); }
  absl::StatusOr<engine::StepResult> Run(const engine::StepPlan& plan) override {
    watch_.BeginStep(plan.seq);
    auto result = inner_.Run(plan);
    watch_.EndStep();
    return result;
  }

 private:
  engine::GroupWatch& watch_;
  engine::LocalStepRunner inner_;
};

// What n_here of n_shards shards read of `file_bytes` of weights: each a share of the routed experts and of their
// copies, and all the rest.
uint64_t BytesOfShards(const engine::ModelConfig& model, uint64_t file_bytes, int n_here, int n_shards,
                       uint32_t n_redundant) {
  double routed = 0;
  double all = 0;
  for (const engine::ParameterPart& part : engine::CountParameters(model).parts) {
    const auto bytes = static_cast<double>(part.stored_bytes);
    all += bytes;
    if (part.name == "routed experts") routed += bytes;
  }
  if (all <= 0) return file_bytes;
  const double copies = 1.0 + static_cast<double>(n_redundant) / static_cast<double>(model.n_routed_experts);
  const double held = std::min(1.0, copies * static_cast<double>(n_here) / n_shards);
  const double missing = routed / all * (1.0 - held);
  return static_cast<uint64_t>(static_cast<double>(file_bytes) * (1.0 - missing));
}

// The choice, and what it was made of.
void LogWays(const engine::DirectExpertTransport& transport) {
  spdlog::info("rows go to experts by {}", transport.Describe());
  for (const engine::WayFigures& one : transport.figures()) {
    std::string figures;
    for (const engine::RowWay way : engine::kRowWays) {
      const auto w = static_cast<size_t>(way);
      absl::StrAppendFormat(&figures, "%s %s %.1f + %.1f", figures.empty() ? "" : ",", engine::RowWayName(way),
                            one.dispatch_seconds[w] * 1e6, one.combine_seconds[w] * 1e6);
    }
    spdlog::info("measured with {} tokens of each shard, us of dispatch + combine:{}", one.n_tokens, figures);
  }
}

// What a library throws is this shard's failure, and is said like any other.
absl::Status Caught(absl::FunctionRef<absl::Status()> body) {
  try {
    return body();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("an exception: ", error.what()));
  }
}

// Of the checkpoint's tokenizer. Null when it has none that can be read: then no output of a given form is served.
std::shared_ptr<grammar::ConstraintCache> LoadConstraints(const std::filesystem::path& model) {
  const auto tokenizer = tokenizer::Tokenizer::Load(model);
  if (!tokenizer.ok()) {
    spdlog::warn("JSON schemas and forced calls are refused: {}", std::string(tokenizer.status().message()));
    return nullptr;
  }
  return std::make_shared<grammar::ConstraintCache>(grammar::Vocabulary::Make(**tokenizer));
}

// What one process holds, in the order in which it is made.
class Shard {
 public:
  Shard(const ShardConfig& config, ShutdownSignals& signals)
      : config_(config),
        signals_(signals),
        metrics_("longshelf-shard"),
        storage_reads_(metrics_, config.run_dir),
        exchange_metrics_(metrics_),
        group_end_(config.run_dir) {}

  absl::Status Run();
  int rank() const { return rank_; }
  bool has_served() const { return load_state_.has_served(); }

 private:
  // Why this shard ends, where the leader is on another host and this shard speaks for its own.
  void TellLeader(const std::string& words);
  absl::Status JoinGroup();
  absl::Status JoinShare();
  absl::Status StartAdmin();
  absl::Status Load();
  // Of this host.
  std::vector<int> RanksHere() const;
  engine::Microbatches MicrobatchesOfGroup() const;
  engine::WeightsPart PartOfWeights(int64_t n_experts, engine::DigestExchange& exchange) const;
  absl::Status MakeTransport(int64_t n_rows_max);
  engine::DirectTransportOptions TransportOptions(const engine::ModelConfig& model, int64_t n_rows_max) const;
  absl::StatusOr<GroupWaiting> LookAtWaiting();
  void PlaceExperts(const engine::GroupDigests& digests);
  absl::Status Allocate(const engine::ModelConfig& model_config);
  absl::Status JoinStores();
  absl::Status LeadGroup(const engine::ShardGroup& group);
  absl::Status Serve(engine::StepRunner& runner, std::vector<int64_t> shard_pids, std::vector<HomeStore*> others);

  const ShardConfig& config_;
  ShutdownSignals& signals_;
  Metrics metrics_;
  StorageReads storage_reads_;
  ExchangeMetrics exchange_metrics_;
  LoadState load_state_;
  SystemClock clock_;
  GroupEnd group_end_;
  int rank_ = 0;
  std::unique_ptr<engine::MpiSession> session_;    // R > 1
  std::atomic<engine::HostLinks*> link_{nullptr};  // of this host to shard 0's, when this shard speaks for it
  std::unique_ptr<engine::GroupWatch> own_watch_;  // R = 1
  std::shared_ptr<net::TlsIdentity> tls_;          // rank 0, and whoever talks to a KV store
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<engine::WeightsShare> share_;  // R > 1, huge weights, until they are loaded
  std::unique_ptr<engine::ExpertTransport> group_transport_;
  std::atomic<const engine::DirectExpertTransport*> direct_transport_{nullptr};  // the same, when it is one
  engine::LocalExpertTransport local_transport_;                                 // R = 1, and what watches it
  std::unique_ptr<WatchedTransport> own_transport_;
  std::shared_ptr<const engine::ModelWeights> weights_;
  std::unique_ptr<engine::MappedExperts> mover_;  // --expert-placement=balanced
  std::unique_ptr<engine::PlacementControl> placement_;
  std::unique_ptr<PlacementMetrics> placement_metrics_;
  std::atomic<const engine::PlacementControl*> placement_seen_{nullptr};  // the same, for the thread of metrics
  std::unique_ptr<engine::Model> model_;
  std::shared_ptr<grammar::ConstraintCache> constraints_;  // null: the checkpoint has no tokenizer
  std::unique_ptr<engine::Executor> executor_;
  std::unique_ptr<GroupStores> stores_;  // R > 1, with a KV store
  int64_t n_context_max_ = 0;
};

absl::Status Shard::Run() {
  RETURN_IF_ERROR(JoinGroup());
  if (!config_.run_dir.empty()) SetDeathNote(engine::RankErrorPath(config_.run_dir, rank_));
  const Logging logging(config_.log, absl::StrCat("longshelf-shard", rank_ > 0 ? absl::StrCat("-", rank_) : ""));
  const absl::Status status = Caught([this]() -> absl::Status {
    RETURN_IF_ERROR(CheckEdgeConfig(config_));
    if (rank_ == 0) RETURN_IF_ERROR(StartAdmin());
    RETURN_IF_ERROR(Load());
    if (session_ == nullptr) {
      WatchedStepRunner runner(*own_watch_, *executor_);
      return Serve(runner, {getpid()}, {});
    }
    const engine::ShardGroup group{session_->communicator(), session_->doorbell(), *group_transport_,
                                   &session_->watch(),       config_.generation,   session_->links(),
                                   placement_.get(),         MicrobatchesOfGroup()};
    RETURN_IF_ERROR(engine::AgreeOnIdentity(
        session_->communicator(), engine::GroupIdentity(*model_, executor_->shape(config_.n_shards), n_context_max_)));
    RETURN_IF_ERROR(JoinStores());
    if (rank_ > 0) load_state_.Set(LoadState::Phase::kServing);
    RETURN_IF_ERROR(rank_ == 0 ? LeadGroup(group) : engine::RunFollower(group, *executor_));
    stores_.reset();
    return session_->Finish(kGroupExitDeadline);
  });
  load_state_.Set(LoadState::Phase::kFailed);
  admin_.reset();
  if (!status.ok()) {
    spdlog::error("shard {} ends: {}", rank_, status.ToString());
    TellLeader(absl::StrCat("shard ", rank_, ": ", status.ToString()));
  }
  return status;
}

// Shard 0 does not see the files of other hosts.
void Shard::TellLeader(const std::string& words) {
  if (engine::HostLinks* link = link_.load(); link != nullptr) link->Say(words);
}

absl::Status Shard::JoinGroup() {
  if (config_.n_shards > 1) {
    engine::MpiSessionOptions options;
    options.run_dir = config_.run_dir;
    options.generation = config_.generation;
    options.supervisor_pid = config_.supervisor_pid;
    options.n_shards = config_.n_shards;
    options.progress_deadline = config_.step_deadline;
    options.shm_dir = config_.mpi_shm_dir;
    options.link_listen = config_.link_listen;
    options.host_silence = config_.host_silence;
    // On all ranks; only rank 0 has calls to end.
    options.last_words = [this](const std::string& reason) { TellLeader(group_end_.Say(reason)); };
    ASSIGN_OR_RETURN(session_, engine::MpiSession::Start(std::move(options)));
    rank_ = session_->communicator().rank();
    if (rank_ > 0) link_.store(session_->links());
    return config_.weights == "huge" ? JoinShare() : absl::OkStatus();
  }
  engine::GroupWatch::Options options;
  options.progress_deadline = config_.step_deadline;
  options.last_words = [this](const std::string& reason) { group_end_.Say(reason); };
  if (!config_.run_dir.empty()) {
    engine::TieToParent();
    RETURN_IF_ERROR(engine::WriteRankPid(config_.run_dir, 0, getpid()));
    options.error_file = engine::RankErrorPath(config_.run_dir, 0);
  }
  own_watch_ = std::make_unique<engine::GroupWatch>(std::move(options));
  if (config_.supervisor_pid > 0) {
    return own_watch_->Watch(static_cast<pid_t>(config_.supervisor_pid), "the supervisor");
  }
  return absl::OkStatus();
}

// The leader has the lock before anybody else asks for it.
absl::Status Shard::JoinShare() {
  const std::filesystem::path file = engine::WeightsSharePath(config_.run_dir);
  const bool leads = session_->hosts().speaks(rank_);
  if (leads) {
    ASSIGN_OR_RETURN(share_, engine::WeightsShare::Lead(file));
  }
  RETURN_IF_ERROR(session_->communicator().Barrier());
  if (!leads) {
    ASSIGN_OR_RETURN(share_, engine::WeightsShare::Join(file));
  }
  return absl::OkStatus();
}

absl::Status Shard::StartAdmin() {
  AdminCallbacks callbacks;
  callbacks.live = [this] { return load_state_.live(); };
  callbacks.ready = [this] { return load_state_.Read(); };
  callbacks.metrics = [this] {
    storage_reads_.Update();
    // Set once, while weights are loaded, and there until the admin port has ended.
    if (const auto* direct = direct_transport_.load(); direct != nullptr) exchange_metrics_.Update(direct->totals());
    if (const auto* placement = placement_seen_.load(); placement != nullptr) {
      placement_metrics_->Update(placement->report());
    }
    return metrics_.Serialize();
  };
  ASSIGN_OR_RETURN(tls_, net::TlsIdentity::Load(config_.tls, clock_, &metrics_));
  AdminOptions options = config_.admin;
  options.tls = tls_;
  ASSIGN_OR_RETURN(admin_, AdminServer::Start(std::move(options), std::move(callbacks)));
  spdlog::info("admin on {}", admin_->url());
  return absl::OkStatus();
}

absl::Status Shard::Load() {
  if (session_ == nullptr && config_.expert_placement != "even") {
    return absl::FailedPreconditionError(
        "expert-placement=balanced moves experts between shards, and there is only one; give more, or leave it out");
  }
  ASSIGN_OR_RETURN(const engine::ModelConfig model_config, engine::LoadModelConfig(config_.model));
  RETURN_IF_ERROR(Allocate(model_config));
  load_state_.Set(LoadState::Phase::kLoading);
  int logged = 0;
  const auto progress = [this, &logged](const engine::LoadProgress& p) {
    const int percent =
        p.bytes_total == 0
            ? 100
            : static_cast<int>(100.0 * static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total));
    load_state_.SetPercent(percent);
    if (rank_ == 0 && percent >= logged + 10) {
      logged = percent - percent % 10;
      spdlog::info("loading weights: {} % of {} bytes", percent, p.bytes_total);
    }
  };
  engine::LoadOptions load_options;
  load_options.memory = config_.weights == "huge" ? engine::WeightsMemory::kHuge : engine::WeightsMemory::kMapped;
  load_options.share = share_.get();
  std::optional<engine::GroupDigests> digests;
  if (session_ != nullptr) {
    digests.emplace(session_->communicator());
    load_options.part = PartOfWeights(model_config.n_routed_experts, *digests);
  }
  ASSIGN_OR_RETURN(weights_, engine::LoadModelWeights(config_.model, progress, load_options));
  share_.reset();
  if (rank_ == 0 && !weights_->huge_pages.empty()) spdlog::info("weights: {}", weights_->huge_pages);
  load_state_.Set(LoadState::Phase::kPreparing);
  engine::ModelOptions options;
  options.numerics = NumericsOf(config_);
  options.n_threads = config_.n_threads;
  options.n_rows_max = EngineConfigOf(config_, {}).n_rows_max();
  options.n_draft_max = DraftMaxOf(config_);
  ASSIGN_OR_RETURN(options.drafter, DrafterOf(config_, weights_->config));
  for (const std::string& line : engine::RefusedKernels()) {
    spdlog::warn("kernels not used, their self-test found other bits: {}", line);
  }
  if (rank_ == 0) spdlog::info("drafts: {}, the model's module: {}", config_.drafts, DrafterName(options.drafter));
  if (session_ != nullptr) {
    RETURN_IF_ERROR(MakeTransport(options.n_rows_max));
    PlaceExperts(*digests);
    engine::ExpertTransport& transport = placement_ != nullptr ? placement_->transport() : *group_transport_;
    ASSIGN_OR_RETURN(model_, engine::Model::Create(weights_, options, transport));
  } else {
    own_transport_ = std::make_unique<WatchedTransport>(local_transport_, *own_watch_);
    ASSIGN_OR_RETURN(model_, engine::Model::Create(weights_, options, *own_transport_));
  }
  engine::ExecutorOptions executor_options;
  executor_options.n_slots = config_.n_sequences_max;
  executor_options.n_blocks = static_cast<uint32_t>(config_.kv_memory_bytes / model_->layout().block_bytes());
  constraints_ = LoadConstraints(config_.model);
  executor_options.constraints = constraints_;
  ASSIGN_OR_RETURN(executor_, engine::Executor::Create(engine::MakeSequenceModel(*model_), executor_options));
  return absl::OkStatus();
}

void Shard::PlaceExperts(const engine::GroupDigests& digests) {
  if (config_.expert_placement == "even") return;
  engine::PlacementOptions options;
  options.n_redundant = config_.n_redundant_experts;
  if (rank_ == 0) options.say = [](const std::string& text) { spdlog::info("{}", text); };
  mover_ = std::make_unique<engine::MappedExperts>(weights_, digests.of_experts());
  placement_ = std::make_unique<engine::PlacementControl>(
      session_->communicator(), *group_transport_, *mover_, engine::CountExpertLayers(*weights_),
      static_cast<uint32_t>(weights_->config.n_routed_experts), std::move(options));
  placement_metrics_ = std::make_unique<PlacementMetrics>(metrics_);
  placement_seen_.store(placement_.get());
}

std::vector<int> Shard::RanksHere() const {
  if (session_ == nullptr) return {rank_};
  return session_->hosts().RanksOf(session_->hosts().host_of(rank_));
}

// On one host what travels is copied by the processors themselves, and there is nothing to compute meanwhile.
engine::Microbatches Shard::MicrobatchesOfGroup() const {
  if (config_.microbatches == "2") return engine::Microbatches::kTwo;
  const bool may_pay = config_.microbatches == "auto" && session_->hosts().n_hosts() > 1;
  return may_pay ? engine::Microbatches::kMeasured : engine::Microbatches::kOne;
}

absl::Status Shard::MakeTransport(int64_t n_rows_max) {
  const engine::ModelConfig& model = weights_->config;
  engine::Communicator& communicator = session_->communicator();
  const auto n_experts = static_cast<uint32_t>(model.n_routed_experts);
  if (config_.expert_transport == "baseline") {
    group_transport_ = std::make_unique<engine::BaselineExpertTransport>(communicator, n_experts, config_.generation);
    return absl::OkStatus();
  }
  engine::DirectTransportOptions options = TransportOptions(model, n_rows_max);
  ASSIGN_OR_RETURN(const GroupWaiting waiting, LookAtWaiting());
  options.n_spins = waiting.yields ? 0 : kSpins;
  auto transport = engine::DirectExpertTransport::Create(communicator, session_->hosts(), options);
  if (absl::IsResourceExhausted(transport.status())) {
    spdlog::warn("shards of a host exchange rows by messages, which is slower: {}",
                 std::string(transport.status().message()));
    options.shm_dir.clear();
    transport = engine::DirectExpertTransport::Create(communicator, session_->hosts(), options);
  }
  if (!transport.ok()) return transport.status();
  if (rank_ == 0) LogWays(**transport);
  ExportGroupStart(metrics_, waiting, (*transport)->ways(), (*transport)->figures());
  direct_transport_.store(transport->get());
  group_transport_ = *std::move(transport);
  return absl::OkStatus();
}

engine::DirectTransportOptions Shard::TransportOptions(const engine::ModelConfig& model, int64_t n_rows_max) const {
  const auto width = static_cast<size_t>(model.hidden_size);
  const size_t number_bytes = NumericsOf(config_) == engine::Numerics::kFp32 ? sizeof(float) : sizeof(uint16_t);
  // The draft module may run more rows than the model's own step: a block for each sequence.
  const int64_t n_draft_rows = int64_t{config_.n_sequences_max} * std::max<int64_t>(model.dspark.block_size, 1);
  engine::DirectTransportOptions options;
  options.n_experts = static_cast<uint32_t>(model.n_routed_experts);
  options.generation = config_.generation;
  options.n_tokens_max = static_cast<size_t>(std::max(n_rows_max, n_draft_rows));
  options.n_experts_per_token = static_cast<size_t>(model.n_experts_per_token);
  options.row_bytes_max = width * number_bytes;
  options.result_bytes_max = width * number_bytes;
  options.n_lanes = MicrobatchesOfGroup() == engine::Microbatches::kOne ? 1 : engine::kExchangeLanes;
  if (config_.expert_transport != "messages") options.shm_dir = config_.mpi_shm_dir;
  for (const engine::RowWay way : engine::kRowWays) {
    if (config_.expert_transport == engine::RowWayName(way)) options.ways = engine::RowWays{way, way};
  }
  options.watch = &session_->watch();
  return options;
}

// Shards that spin while others wait for their processors make everything a thousand times slower, so it is measured.
absl::StatusOr<GroupWaiting> Shard::LookAtWaiting() {
  const auto n_here = static_cast<int>(RanksHere().size());
  GroupWaiting waiting;
  ASSIGN_OR_RETURN(waiting.barrier_seconds, engine::MeasureBarrier(session_->communicator()));
  const AvailableProcessors processors = FindAvailableProcessors();
  waiting.yields = n_here * config_.n_threads > processors.n;
  // Between hosts it is the network that takes its time.
  if (session_->hosts().n_hosts() == 1 && waiting.barrier_seconds > kBarrierSecondsMax) {
    waiting.yields = true;
    if (rank_ == 0) {
      spdlog::warn(
          "a barrier of the {} shards takes {:.1f} ms, where some 0.05 are usual: they wait for processors. There are "
          "{} on {}, for {} shards with {} threads each and whatever else runs; every layer of a step waits so. Shards "
          "now give their processor away whenever they wait (longshelf_worker_expert_yield)",
          config_.n_shards, waiting.barrier_seconds * 1e3, processors.n, processors.bound_by, n_here,
          config_.n_threads);
    }
  }
  return waiting;
}

// The experts of this shard; in memory that the shards of a host share, those of all of them.
engine::WeightsPart Shard::PartOfWeights(int64_t n_experts, engine::DigestExchange& exchange) const {
  const std::vector<int> ranks = config_.weights == "huge" ? RanksHere() : std::vector<int>{rank_};
  const auto n = static_cast<uint32_t>(n_experts);
  engine::WeightsPart part;
  part.experts_begin = engine::FirstExpertOf(ranks.front(), n, config_.n_shards);
  part.experts_end = engine::FirstExpertOf(ranks.back() + 1, n, config_.n_shards);
  part.exchange = &exchange;
  return part;
}

absl::Status Shard::Allocate(const engine::ModelConfig& model_config) {
  // Loading may find that the draft module is not there; then a slot is smaller than this.
  ASSIGN_OR_RETURN(const engine::DrafterKind drafter, DrafterOf(config_, model_config));
  const engine::KvLayout layout(model_config, NumericsOf(config_), {DraftMaxOf(config_), drafter});
  const auto n_blocks = static_cast<int64_t>(config_.kv_memory_bytes / layout.block_bytes());
  if (n_blocks < 1 || n_blocks > int64_t{UINT32_MAX}) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-memory is ", config_.kv_memory_bytes, " bytes, or ", n_blocks,
                                                   " blocks of ", layout.block_bytes(),
                                                   " bytes; give at least one block per sequence"));
  }
  // A sequence lives on one shard.
  const int64_t fits = n_blocks * kBlockTokens;
  n_context_max_ = config_.n_context_max > 0 ? config_.n_context_max : std::min(model_config.max_positions, fits);
  if (n_context_max_ > model_config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context is ", n_context_max_, "; the model knows ", model_config.max_positions, " positions"));
  }
  if (n_context_max_ > fits) {
    const int64_t n_needed = (n_context_max_ + kBlockTokens - 1) / kBlockTokens;
    return absl::InvalidArgumentError(absl::StrCat("--context is ", n_context_max_, ", whose KV needs ",
                                                   static_cast<uint64_t>(n_needed) * layout.block_bytes(),
                                                   " bytes, but --kv-memory is ", config_.kv_memory_bytes));
  }
  MemoryNeed need;
  need.weights = BytesOfTensorFiles(config_.model);
  // The leader keeps the tokens of each.
  need.kv_blocks = static_cast<uint64_t>(n_blocks) * (layout.block_bytes() + engine::kStampBytes);
  need.states = uint64_t{config_.n_sequences_max} * layout.state_bytes();
  need.checkpoints = config_.checkpoint_memory_bytes;
  need.store_buffers = config_.kvstores.empty() ? 0 : config_.store_memory_bytes;
  need.weights_copied = config_.weights == "huge";
  if (session_ != nullptr && config_.expert_transport == "direct") {
    const int64_t n_rows_max = EngineConfigOf(config_, {}).n_rows_max();
    need.exchange = engine::BytesOfBuffers(session_->hosts(), rank_, TransportOptions(model_config, n_rows_max));
  }
  // For all shards of a host, by one of them, before any of them allocates.
  if (session_ != nullptr && !session_->hosts().speaks(rank_)) return absl::OkStatus();
  const auto n_here = static_cast<int>(RanksHere().size());
  need.weights = BytesOfShards(model_config, need.weights, n_here, config_.n_shards, config_.n_redundant_experts);
  const MemoryRoom room = ReadMemoryRoom();
  RETURN_IF_ERROR(CheckMemory(need, n_here, room));
  if (!WeightsFit(need, n_here, room)) {
    spdlog::warn(
        "the weights, {} bytes, do not fit beside the rest into the {} bytes of memory available: what is missing is "
        "read from storage whenever it is needed (longshelf_worker_storage_read_bytes_total)",
        need.weights, room.available);
  }
  return absl::OkStatus();
}

absl::Status Shard::JoinStores() {
  if (config_.kvstores.empty()) return absl::OkStatus();
  if (rank_ > 0) {
    ASSIGN_OR_RETURN(tls_, net::TlsIdentity::Load(config_.tls, clock_, &metrics_));
  }
  ASSIGN_OR_RETURN(stores_, GroupStores::Join(config_, *session_, executor_->copies(), tls_, clock_, metrics_));
  return absl::OkStatus();
}

absl::Status Shard::LeadGroup(const engine::ShardGroup& group) {
  engine::ShardGroupRunner runner(group, *executor_);
  std::vector<int64_t> pids;
  for (const engine::RankProcess& process : engine::ReadRankPids(config_.run_dir)) pids.push_back(process.id.pid);
  RETURN_IF_ERROR(Serve(runner, std::move(pids), stores_ == nullptr ? std::vector<HomeStore*>() : stores_->others()));
  if (stores_ != nullptr) stores_->End();
  return runner.Shutdown();
}

absl::Status Shard::Serve(engine::StepRunner& runner, std::vector<int64_t> shard_pids, std::vector<HomeStore*> others) {
  engine::GroupWatch& watch = session_ != nullptr ? session_->watch() : *own_watch_;
  const LeaderContext context{config_, signals_, clock_, metrics_, load_state_, tls_, watch, group_end_, constraints_};
  return RunLeader(context, *model_, n_context_max_, std::move(shard_pids), runner,
                   {executor_->copies(), std::move(others)});
}

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kResourceExhausted:
      return kExitConfig;
    case absl::StatusCode::kUnavailable:
      return kExitUnavailable;
    default:
      return engine::kGroupBrokenExitCode;
  }
}

}  // namespace

int RunShard(const ShardConfig& config, ShutdownSignals& signals) {
  Shard shard(config, signals);
  const absl::Status status = shard.Run();
  if (status.ok()) return 0;
  if (!config.run_dir.empty()) engine::WriteRankError(config.run_dir, shard.rank(), status.ToString());
  return shard.has_served() && absl::IsUnavailable(status) ? engine::kGroupBrokenExitCode : ExitCodeOf(status);
}

}  // namespace longshelf::worker
