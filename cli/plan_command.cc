#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/plan_report.h"
#include "commands.h"
#include "common/config.h"
#include "common/status.h"

namespace longshelf::cli {
namespace {

// Flags as they were written.
struct PlanFlags {
  std::vector<std::string> models;
  std::vector<std::string> contexts;
  int64_t memory_bytes = int64_t{64} << 30;
  bool json = false;
  GroupPlanRequest group;  // of a group when n_shards > 0
  std::string network = "25g";
  std::string routing = "uniform";
  std::vector<std::string> batches = {"1", "8", "64"};
  int64_t host_bytes_per_s = int64_t{192} << 30;
};

absl::StatusOr<std::string> Plan(const PlanFlags& flags) {
  PlanRequest request{flags.models, {}, flags.memory_bytes};
  if (request.models.empty()) request.models = {"flash", "pro", "v3.2"};
  for (const std::string& text : flags.contexts) {
    ASSIGN_OR_RETURN(const int64_t n_tokens, ParseContext(text));
    request.contexts.push_back(n_tokens);
  }
  if (request.contexts.empty()) request.contexts = {1 << 20};
  return flags.json ? PlanJson(request) : PlanTable(request);
}

absl::StatusOr<std::string> PlanOfGroup(const PlanFlags& flags) {
  constexpr int kBatchMax = 65'536;
  GroupPlanRequest request = flags.group;
  const std::vector<std::string> models = flags.models.empty() ? std::vector<std::string>{"flash"} : flags.models;
  if (flags.contexts.size() > 1) return absl::InvalidArgumentError("--context: one only with --shards");
  if (!flags.contexts.empty()) {
    ASSIGN_OR_RETURN(request.context_tokens, ParseContext(flags.contexts[0]));
  }
  absl::StatusOr<simulation::Network> network = simulation::ParseNetwork(flags.network);
  if (!network.ok()) return absl::InvalidArgumentError(absl::StrCat("--", network.status().message()));
  request.network = *std::move(network);
  absl::StatusOr<simulation::RoutingSpec> routing = simulation::ParseRouting(flags.routing);
  if (!routing.ok()) return absl::InvalidArgumentError(absl::StrCat("--", routing.status().message()));
  request.routing = *std::move(routing);
  request.host_bytes_per_s = static_cast<double>(flags.host_bytes_per_s);
  request.batches.clear();
  for (const std::string& text : flags.batches) {
    int batch = 0;
    if (!absl::SimpleAtoi(text, &batch) || batch < 1 || batch > kBatchMax) {
      return absl::InvalidArgumentError(absl::StrCat("--batch \"", text, "\": must be from 1 to ", kBatchMax));
    }
    request.batches.push_back(batch);
  }
  return flags.json ? GroupPlanJson(models, request) : GroupPlanTable(models, request);
}

// Flags about a group say nothing without one.
bool NeedsShards(int argc, const char* const* argv, std::string* flag) {
  for (const char* name : {"--hosts", "--network", "--batch", "--threads", "--routing", "--host-cores", "--host-memory",
                           "--host-bandwidth", "--prefill-tokens"}) {
    const std::string with_value = std::string(name) + "=";
    *flag = name;
    if (std::any_of(argv + 1, argv + argc,
                    [&](std::string arg) { return arg == name || arg.starts_with(with_value); })) {
      return true;
    }
  }
  return false;
}

}  // namespace

int RunPlan(int argc, const char* const* argv) {
  PlanFlags flags;
  ConfigSpec spec("longshelf plan",
                  "What models cost: KV bytes, arithmetic per token, sessions that fit in memory, and how that\n"
                  "compares with DeepSeek-V3.2. With --shards: how fast a group of shards would be, simulated.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(
      &flags.models, "model",
      "flash, pro, v3.2, a checkpoint directory or a config.json; repeatable. None: flash, pro and v3.2, and flash "
      "with --shards");
  spec.Add(&flags.contexts, "context",
           "tokens of context, such as 4096, 128K, 1M; repeatable. None: 1M, and 4096 with "
           "--shards");
  spec.AddBytes(&flags.memory_bytes, "memory", "memory for KV (weights not included)");
  spec.Add(&flags.json, "json", "print JSON");
  spec.Group("A group, simulated");
  spec.Add(&flags.group.n_shards, "shards", "shards that share the experts; 0: no group", {0, 128});
  spec.Add(&flags.group.n_hosts, "hosts", "machines that they are on", {1, 128});
  spec.Add(
      &flags.network, "network",
      "between them: BANDWIDTH,LATENCY such as 25Gbit,20us (\",rdma\" behind it: without work of a processor), or 1g, "
      "10g, 25g, 100g, 200g-rdma, 400g-rdma");
  spec.Add(&flags.batches, "batch", "sequences that decode at once, on all shards; repeatable");
  spec.Add(&flags.group.prefill_tokens, "prefill-tokens", "tokens of a step that reads prompts", {1, 65'536});
  spec.Add(&flags.routing, "routing", "uniform, zipf:EXPONENT or hot:EXPERTS:SHARE");
  spec.Add(&flags.group.cores_per_host, "host-cores", "cores of a machine", {1, 4096});
  spec.Add(&flags.group.threads_per_shard, "threads", "of each shard; 0: as many as there are cores for", {0, 1024});
  spec.AddBytes(&flags.group.host_memory_bytes, "host-memory", "memory of a machine");
  spec.AddBytes(&flags.host_bytes_per_s, "host-bandwidth", "bytes that a machine reads from its memory in a second",
                {1'000'000'000, int64_t{1} << 50});
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  absl::StatusOr<std::string> text = flags.group.n_shards > 0 ? PlanOfGroup(flags) : Plan(flags);
  if (std::string flag; flags.group.n_shards == 0 && NeedsShards(argc, argv, &flag)) {
    text = absl::InvalidArgumentError(flag + " is about a group: give --shards too");
  }
  if (!text.ok()) {
    std::cerr << "longshelf plan: " << text.status().message() << '\n';
    return absl::IsNotFound(text.status()) ? kExitUnavailable : kExitUsage;
  }
  std::cout << *text;
  return 0;
}

}  // namespace longshelf::cli
