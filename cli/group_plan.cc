#include "cli/group_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "common/status.h"
#include "engine/model/plan.h"
#include "simulation/expert_bytes.h"
#include "simulation/step.h"

namespace longshelf::cli {
namespace {

using engine::ModelConfig;
using simulation::Curve;

// Messages of a layer grow with the square.
constexpr int kShardsMax = 128;
// A worker's defaults: --step-tokens, and a quarter of them for prompts beside decode rows.
constexpr int64_t kRowsMax = 512 + 512 / 4 + 1;
constexpr int64_t kPage = 4096;
constexpr double kResultBytesPerValue = 2;  // BF16

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What can be twice as much, to see what a step waits for.
struct Doubled {
  const char* name;
  bool memory = false;
  bool arithmetic = false;
  bool bandwidth = false;
  bool latency = false;
  bool exchange = false;
};
constexpr Doubled kAsItIs = {""};
constexpr Doubled kDoubles[] = {{.name = "memory bandwidth", .memory = true},
                                {.name = "arithmetic", .arithmetic = true},
                                {.name = "network bandwidth", .bandwidth = true},
                                {.name = "network latency", .latency = true},
                                {.name = "copying rows", .exchange = true}};

// One model on one group.
class Planner {
 public:
  Planner(const std::string& name, const ModelConfig& config, const GroupPlanRequest& request);
  absl::StatusOr<GroupPlan> Plan() const;

 private:
  simulation::ExpertShape Shape(int64_t row_bytes) const;
  simulation::ExpertShape DispatchShape() const;
  simulation::ComputeCosts Compute(const std::vector<int>& tokens, const Doubled& doubled) const;
  Curve Product(double weights, double bytes, const Curve& rate, int n_at_once, const Doubled& doubled) const;
  simulation::ExchangeCosts Exchange(const Doubled& doubled) const;
  absl::StatusOr<simulation::StepTimes> Simulate(const std::vector<int>& tokens, const Doubled& doubled) const;
  absl::StatusOr<PlannedStep> Step(const std::vector<int>& tokens) const;
  std::vector<int> Spread(int n_tokens) const;
  HostMemory Memory() const;
  void AddExchangeBuffers(const simulation::ExpertShape& rows, int64_t n_rows, HostMemory& memory) const;

  const GroupPlanRequest& request_;
  ModelConfig main_;  // without drafts
  const engine::CostModel model_;
  const engine::ParameterTable parameters_;
  const int64_t n_draft_layers_;
  int64_t draft_bytes_;
  const simulation::ComputeRates& rates_ = simulation::MeasuredComputeRates();
  simulation::Cluster cluster_;
  int threads_ = 1;
};

ModelConfig WithoutDrafts(const ModelConfig& config) {
  ModelConfig main = config;
  main.n_mtp_layers = 0;
  main.dspark.n_stages = 0;
  main.compress_ratios.resize(static_cast<size_t>(main.n_layers));
  return main;
}

const engine::ParameterPart& PartNamed(const engine::ParameterTable& table, std::string_view name) {
  return *std::find_if(table.parts.begin(), table.parts.end(), [&](const auto& part) { return part.name == name; });
}

Planner::Planner(const std::string& name, const ModelConfig& config, const GroupPlanRequest& request)
    : request_(request),
      main_(WithoutDrafts(config)),
      model_(engine::CostModel::OfV4(name, main_)),
      parameters_(engine::CountParameters(main_)),
      n_draft_layers_(config.n_mtp_layers + config.dspark.n_stages),
      draft_bytes_(engine::CountParameters(config).draft_module.stored_bytes) {
  cluster_.n_ranks = request.n_shards;
  cluster_.n_hosts = request.n_hosts;
  cluster_.cores_per_host = request.cores_per_host;
  const int spread = std::max(1, request.cores_per_host / cluster_.ranks_per_host());
  threads_ = request.threads_per_shard > 0 ? request.threads_per_shard : spread;
  cluster_.threads_per_rank = threads_;
}

simulation::ExpertShape Planner::Shape(int64_t row_bytes) const {
  return {.n_experts = static_cast<int>(main_.n_routed_experts),
          .n_per_token = static_cast<int>(main_.n_experts_per_token),
          .row_bytes = row_bytes,
          .result_bytes = static_cast<int64_t>(kResultBytesPerValue) * main_.hidden_size};
}

// Rows of FP8 with a scale for every 128 values.
simulation::ExpertShape Planner::DispatchShape() const {
  return Shape(main_.hidden_size + (main_.hidden_size + 127) / 128);
}

// By rows: what the threads of a shard compute, but no faster than its share of the host's memory is read, when so many
// shards of a host do that at once.
Curve Planner::Product(double weights, double bytes, const Curve& rate, int n_at_once, const Doubled& doubled) const {
  const double bytes_per_s = request_.host_bytes_per_s / n_at_once * (doubled.memory ? 2 : 1);
  const double n_threads = threads_ * (doubled.arithmetic ? 2.0 : 1.0);
  std::vector<std::pair<double, double>> points;
  for (double rows = 1; rows <= 4096; rows *= 2) {
    points.emplace_back(rows, std::max(weights * rate.At(rows) / n_threads, bytes / bytes_per_s));
  }
  return Curve(std::move(points));
}

simulation::ComputeCosts Planner::Compute(const std::vector<int>& tokens, const Doubled& doubled) const {
  const int each = cluster_.ranks_per_host();
  int n_home = 1;  // shards of a host that have tokens
  for (auto host = tokens.begin(); host != tokens.end(); host += each) {
    n_home = std::max(n_home, static_cast<int>(each - std::count(host, host + each, 0)));
  }
  const auto n_layers = static_cast<double>(main_.n_layers);
  const double n_threads = threads_ * (doubled.arithmetic ? 2.0 : 1.0);
  double weights = 0;
  double bytes = 0;
  for (const engine::ParameterPart& part : parameters_.parts) {
    const bool elsewhere = part.name == "routed experts" || part.name == "shared experts" ||
                           part.name == "output head" || part.active == 0;
    if (elsewhere) continue;
    weights += static_cast<double>(part.active);
    bytes += static_cast<double>(part.stored_bytes);
  }
  double attention_flops = 0;
  double index_flops = 0;
  for (const engine::FlopsPart& part : model_.Flops(request_.context_tokens)) {
    if (part.name == "attention") attention_flops = part.flops / n_layers;
    if (part.name == "index scores") index_flops = part.flops / n_layers;
  }
  const engine::ParameterPart& routed = PartNamed(parameters_, "routed experts");
  const engine::ParameterPart& shared = PartNamed(parameters_, "shared experts");
  const engine::ParameterPart& head = PartNamed(parameters_, "output head");
  const double n_experts = n_layers * static_cast<double>(main_.n_routed_experts);
  const auto per = [](int64_t n, double of) { return static_cast<double>(n) / of; };
  simulation::ComputeCosts out;
  const Curve products = Product(weights / n_layers, bytes / n_layers, rates_.other_weight_s, n_home, doubled);
  std::vector<std::pair<double, double>> before;
  for (double rows = 1; rows <= 4096; rows *= 2) {
    const double attention_s =
        attention_flops * rates_.attention_flop_s.At(rows) + index_flops * rates_.index_flop_s.At(rows);
    before.emplace_back(rows, products.At(rows) + attention_s / n_threads);
  }
  out.before_s = Curve(std::move(before));
  out.shared_s =
      Product(per(shared.active, n_layers), per(shared.stored_bytes, n_layers), rates_.other_weight_s, n_home, doubled);
  out.expert_s =
      Product(per(routed.total, n_experts), per(routed.stored_bytes, n_experts), rates_.routed_weight_s, each, doubled);
  const double added = static_cast<double>(main_.n_experts_per_token * main_.hidden_size);
  out.after_s = Curve::PerUnit(added * rates_.added_value_s / n_threads);
  out.head_s = Product(static_cast<double>(head.active), static_cast<double>(head.stored_bytes), rates_.other_weight_s,
                       n_home, doubled);
  out.step_s = rates_.step_s;
  return out;
}

simulation::ExchangeCosts Planner::Exchange(const Doubled& doubled) const {
  simulation::ExchangeCosts costs = simulation::MeasuredExchangeCosts();
  if (doubled.exchange) costs = simulation::Faster(costs, 2);
  return costs;
}

absl::StatusOr<simulation::StepTimes> Planner::Simulate(const std::vector<int>& tokens, const Doubled& doubled) const {
  simulation::StepSpec spec;
  spec.cluster = cluster_;
  spec.experts = DispatchShape();
  spec.n_layers = static_cast<int>(main_.n_layers);
  spec.tokens = tokens;
  spec.compute = Compute(tokens, doubled);
  spec.exchange = Exchange(doubled);
  spec.network = request_.network;
  if (doubled.bandwidth) spec.network.bytes_per_s *= 2;
  if (doubled.latency) spec.network.latency_s /= 2;
  std::mt19937_64 random(request_.seed);
  ASSIGN_OR_RETURN(simulation::ExpertSampler sampler,
                   simulation::ExpertSampler::Create(request_.routing, spec.experts, random));
  return simulation::SimulateStep(spec, sampler, random);
}

std::vector<int> Planner::Spread(int n_tokens) const {
  std::vector<int> out;
  for (int r = 0; r < cluster_.n_ranks; ++r) {
    out.push_back(n_tokens / cluster_.n_ranks + (r < n_tokens % cluster_.n_ranks ? 1 : 0));
  }
  return out;
}

absl::StatusOr<PlannedStep> Planner::Step(const std::vector<int>& tokens) const {
  ASSIGN_OR_RETURN(const simulation::StepTimes times, Simulate(tokens, kAsItIs));
  PlannedStep out;
  for (const int n : tokens) out.n_tokens += n;
  out.step_s = times.step_s;
  out.tokens_per_s = out.n_tokens / times.step_s;
  out.exposed_s_per_layer = times.exposed_least_s / static_cast<double>(main_.n_layers);
  out.exposed_share = times.exposed_least_s / times.step_s;
  out.sent_bytes_per_token = times.far_bytes / out.n_tokens;
  out.minimum_bytes_per_token =
      simulation::MinimumBetweenHosts(cluster_, DispatchShape()).total_bytes() * static_cast<double>(main_.n_layers);
  out.nic_share = times.nic_busy_s / times.step_s;
  for (const Doubled& doubled : kDoubles) {
    ASSIGN_OR_RETURN(const simulation::StepTimes faster, Simulate(tokens, doubled));
    const double saves = 1 - faster.step_s / times.step_s;
    if (saves <= out.limit_saves && !out.limit.empty()) continue;
    out.limit = doubled.name;
    out.limit_saves = saves;
  }
  return out;
}

// For exchanges of n_rows rows of each shard.
void Planner::AddExchangeBuffers(const simulation::ExpertShape& rows, int64_t n_rows, HostMemory& memory) const {
  const int each = cluster_.ranks_per_host();
  const int64_t n_pairs = n_rows * main_.n_experts_per_token;
  const int64_t dispatch = simulation::DispatchMessageBytes(rows, n_rows, n_pairs);
  const int64_t results = simulation::CombineMessageBytes(rows, n_pairs);
  const int64_t inbox = cluster_.n_ranks * RoundUp(dispatch, kPage) + RoundUp(results, kPage);
  // What neighbours may read where it lies.
  const int64_t outbox = each > 1 ? RoundUp(n_rows * rows.row_bytes, kPage) + RoundUp(results, kPage) : 0;
  memory.inbox_bytes += each * (inbox + outbox);
  memory.message_bytes += each * ((cluster_.n_hosts - 1) * dispatch + 2 * (cluster_.n_ranks - each) * results);
}

HostMemory Planner::Memory() const {
  const int each = cluster_.ranks_per_host();
  const simulation::ExpertShape rows = Shape(static_cast<int64_t>(kResultBytesPerValue) * main_.hidden_size);
  int64_t n_experts = 0;
  for (int h = 0; h < cluster_.n_hosts; ++h) {
    const int begin = rows.first_expert(h * each, cluster_.n_ranks);
    n_experts = std::max<int64_t>(n_experts, rows.first_expert((h + 1) * each, cluster_.n_ranks) - begin);
  }
  const engine::ParameterPart& routed = PartNamed(parameters_, "routed experts");
  const int64_t expert_bytes = routed.stored_bytes / (main_.n_layers * main_.n_routed_experts);
  HostMemory out;
  out.expert_bytes = expert_bytes * n_experts * (main_.n_layers + n_draft_layers_);
  out.other_bytes = parameters_.main.stored_bytes - routed.stored_bytes + draft_bytes_ -
                    expert_bytes * main_.n_routed_experts * n_draft_layers_;
  // A second microbatch has buffers of its own.
  if (cluster_.n_ranks > 1) AddExchangeBuffers(rows, kRowsMax, out);
  if (cluster_.n_hosts > 1) AddExchangeBuffers(rows, (kRowsMax + 1) / 2, out);
  const int batch = *std::max_element(request_.batches.begin(), request_.batches.end());
  const int64_t per_shard = (batch + cluster_.n_ranks - 1) / cluster_.n_ranks;
  out.kv_bytes = each * per_shard * model_.ReservedBytes(request_.context_tokens);
  return out;
}

absl::StatusOr<GroupPlan> Planner::Plan() const {
  if (cluster_.n_ranks > main_.n_routed_experts) {
    return absl::InvalidArgumentError(fmt::format("--shards {}: {} has {} experts; at most one shard for each",
                                                  cluster_.n_ranks, model_.name(), main_.n_routed_experts));
  }
  GroupPlan out;
  out.name = model_.name();
  out.threads_per_shard = threads_;
  out.memory = Memory();
  out.fits = out.memory.total_bytes() <= request_.host_memory_bytes;
  const int64_t left = request_.host_memory_bytes - (out.memory.total_bytes() - out.memory.kv_bytes);
  out.sessions =
      left <= 0 ? 0 : cluster_.n_ranks * model_.SessionsIn(left / cluster_.ranks_per_host(), request_.context_tokens);
  for (const int batch : request_.batches) {
    ASSIGN_OR_RETURN(PlannedStep step, Step(Spread(batch)));
    out.decode.push_back(std::move(step));
  }
  std::vector<int> one(static_cast<size_t>(cluster_.n_ranks), 0);
  one[0] = request_.prefill_tokens;
  ASSIGN_OR_RETURN(out.prefill_one, Step(one));
  ASSIGN_OR_RETURN(out.prefill_all, Step(Spread(request_.prefill_tokens)));
  return out;
}

}  // namespace

absl::Status CheckGroup(const GroupPlanRequest& request) {
  const auto bad = [](const std::string& text) { return absl::InvalidArgumentError(text); };
  if (request.n_shards < 1 || request.n_shards > kShardsMax) {
    return bad(fmt::format("--shards {}: must be from 1 to {}", request.n_shards, kShardsMax));
  }
  if (request.n_hosts < 1 || request.n_hosts > request.n_shards || request.n_shards % request.n_hosts != 0) {
    return bad(fmt::format("--hosts {}: every host has as many shards as the others, and --shards is {}",
                           request.n_hosts, request.n_shards));
  }
  if (request.batches.empty()) return bad("--batch: give at least one");
  return absl::OkStatus();
}

absl::StatusOr<GroupPlan> PlanGroup(const std::string& name, const ModelConfig& config,
                                    const GroupPlanRequest& request) {
  RETURN_IF_ERROR(CheckGroup(request));
  return Planner(name, config, request).Plan();
}

}  // namespace longshelf::cli
