#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "cli/plan_report.h"
#include "common/status.h"
#include "named_config.h"
#include "report_text.h"

namespace longshelf::cli {
namespace {

using nlohmann::ordered_json;

absl::StatusOr<std::vector<GroupPlan>> Plans(const std::vector<std::string>& models, const GroupPlanRequest& request) {
  RETURN_IF_ERROR(CheckModelCount(models.size()));
  RETURN_IF_ERROR(CheckGroup(request));
  std::vector<GroupPlan> plans;
  for (const std::string& name : models) {
    if (name == "v3.2") {
      return absl::InvalidArgumentError("--shards: v3.2 is there for comparison only; give other models");
    }
    ASSIGN_OR_RETURN(const NamedConfig model, ConfigNamed(name));
    ASSIGN_OR_RETURN(GroupPlan plan, PlanGroup(model.name, model.config, request));
    plans.push_back(std::move(plan));
  }
  return plans;
}

std::string Bytes(int64_t n) { return BytesText(static_cast<double>(n)); }
std::string Plural(int n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }
std::string MsText(double seconds) { return fmt::format("{:.4g} ms", seconds * 1e3); }
std::string UsText(double seconds) { return fmt::format("{:.1f} us", seconds * 1e6); }

std::string HeadLine(const GroupPlan& plan, const GroupPlanRequest& r) {
  std::string out = fmt::format("{}, simulated: {} with {} each on {} of {} cores that read {} a second", plan.name,
                                Plural(r.n_shards, "shard"), Plural(plan.threads_per_shard, "thread"),
                                Plural(r.n_hosts, "host"), r.cores_per_host, BytesText(r.host_bytes_per_s));
  if (r.n_hosts > 1) {
    out += fmt::format("\nnetwork {}: {:.4g} Gbit/s, {:.4g} us{}", r.network.name, r.network.bytes_per_s * 8e-9,
                       r.network.latency_s * 1e6, r.network.offloaded ? ", RDMA" : "");
  }
  return out + "\n";
}

std::string MemoryTable(const GroupPlan& plan, const GroupPlanRequest& r) {
  const HostMemory& m = plan.memory;
  TextTable table;
  const auto row = [&](std::string label, std::string cell) {
    table.rows.push_back({std::move(label), {std::move(cell)}});
  };
  table.rows.push_back({"\nMemory of a host", {}});
  row("routed experts of its shards", Bytes(m.expert_bytes));
  row("other weights", Bytes(m.other_bytes));
  row("inboxes of expert rows", Bytes(m.inbox_bytes));
  row("messages to and from other hosts", Bytes(m.message_bytes));
  row(fmt::format("KV of the largest batch at {} tokens", r.context_tokens), Bytes(m.kv_bytes));
  row("together", Bytes(m.total_bytes()));
  row(fmt::format("fits in {}", Bytes(r.host_memory_bytes)), plan.fits ? "yes" : "no");
  row(fmt::format("sessions of {} tokens that fit on all hosts", r.context_tokens), std::to_string(plan.sessions));
  return table.ToString();
}

std::string StepTable(const std::string& title, const std::vector<std::string>& labels,
                      const std::vector<const PlannedStep*>& steps) {
  TextTable table;
  const auto row = [&](std::string label, const auto& cell) {
    TextTable::Row out{std::move(label), {}};
    for (const PlannedStep* step : steps) out.cells.push_back(cell(*step));
    table.rows.push_back(std::move(out));
  };
  table.rows.push_back({"\n" + title, {}});
  table.rows.push_back({"", labels});
  row("step", [](const PlannedStep& s) { return MsText(s.step_s); });
  row("tokens/s", [](const PlannedStep& s) { return fmt::format("{:.4g}", s.tokens_per_s); });
  row("exchanges, exposed", [](const PlannedStep& s) { return PercentText(s.exposed_share); });
  row("  in each layer", [](const PlannedStep& s) { return UsText(s.exposed_s_per_layer); });
  row("sent between hosts, a token", [](const PlannedStep& s) {
    return s.minimum_bytes_per_token > 0 ? BytesText(s.sent_bytes_per_token) : std::string("-");
  });
  row("  of the minimum", [](const PlannedStep& s) {
    return s.minimum_bytes_per_token > 0 ? fmt::format("{:.3f}", s.sent_bytes_per_token / s.minimum_bytes_per_token)
                                         : std::string("-");
  });
  row("busiest interface", [](const PlannedStep& s) { return PercentText(s.nic_share); });
  row("limit", [](const PlannedStep& s) { return s.limit; });
  row("  twice as much saves", [](const PlannedStep& s) { return PercentText(s.limit_saves); });
  return table.ToString();
}

ordered_json StepJson(const PlannedStep& s) {
  return {{"tokens", s.n_tokens},
          {"step_seconds", s.step_s},
          {"tokens_per_second", s.tokens_per_s},
          {"exposed_share", s.exposed_share},
          {"exposed_seconds_per_layer", s.exposed_s_per_layer},
          {"sent_bytes_per_token", s.sent_bytes_per_token},
          {"minimum_bytes_per_token", s.minimum_bytes_per_token},
          {"interface_share", s.nic_share},
          {"limit", s.limit},
          {"limit_saves", s.limit_saves}};
}

ordered_json GroupJson(const GroupPlan& plan) {
  ordered_json decode = ordered_json::array();
  for (const PlannedStep& step : plan.decode) decode.push_back(StepJson(step));
  const HostMemory& m = plan.memory;
  return {{"name", plan.name},
          {"threads_per_shard", plan.threads_per_shard},
          {"host_memory",
           {{"expert_bytes", m.expert_bytes},
            {"other_weights_bytes", m.other_bytes},
            {"inbox_bytes", m.inbox_bytes},
            {"message_bytes", m.message_bytes},
            {"kv_bytes", m.kv_bytes},
            {"total_bytes", m.total_bytes()}}},
          {"fits", plan.fits},
          {"sessions", plan.sessions},
          {"decode", decode},
          {"prefill_of_one_prompt", StepJson(plan.prefill_one)},
          {"prefill_on_all_shards", StepJson(plan.prefill_all)}};
}

}  // namespace

absl::StatusOr<std::string> GroupPlanTable(const std::vector<std::string>& models, const GroupPlanRequest& request) {
  ASSIGN_OR_RETURN(const std::vector<GroupPlan> plans, Plans(models, request));
  std::string out;
  for (const GroupPlan& plan : plans) {
    if (!out.empty()) out += "\n";
    out += HeadLine(plan, request) + MemoryTable(plan, request);
    std::vector<std::string> labels;
    std::vector<const PlannedStep*> steps;
    for (const PlannedStep& step : plan.decode) {
      labels.push_back(std::to_string(step.n_tokens));
      steps.push_back(&step);
    }
    out +=
        StepTable(fmt::format("Decode at {} tokens of context, by sequences", request.context_tokens), labels, steps);
    out += StepTable(fmt::format("Prefill, {} tokens a step", request.prefill_tokens), {"one prompt", "on all shards"},
                     {&plan.prefill_one, &plan.prefill_all});
  }
  return out;
}

absl::StatusOr<std::string> GroupPlanJson(const std::vector<std::string>& models, const GroupPlanRequest& request) {
  ASSIGN_OR_RETURN(const std::vector<GroupPlan> plans, Plans(models, request));
  ordered_json out = {{"simulated", true},
                      {"shards", request.n_shards},
                      {"hosts", request.n_hosts},
                      {"network",
                       {{"name", request.network.name},
                        {"bytes_per_second", request.network.bytes_per_s},
                        {"latency_seconds", request.network.latency_s},
                        {"rdma", request.network.offloaded}}},
                      {"host_cores", request.cores_per_host},
                      {"host_memory_bytes", request.host_memory_bytes},
                      {"host_memory_bytes_per_second", request.host_bytes_per_s},
                      {"context", request.context_tokens},
                      {"models", ordered_json::array()}};
  for (const GroupPlan& plan : plans) out["models"].push_back(GroupJson(plan));
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace longshelf::cli
