#include "cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "common/status.h"
#include "named_config.h"
#include "report_text.h"

namespace longshelf::cli {
namespace {

using engine::CostModel;
using nlohmann::ordered_json;

constexpr int64_t kMaxContext = 1 << 24;

absl::StatusOr<CostModel> ModelNamed(const std::string& name) {
  if (name == "v3.2") return CostModel::OfV32();
  ASSIGN_OR_RETURN(const NamedConfig model, ConfigNamed(name));
  return CostModel::OfV4(model.name, model.config);
}

absl::StatusOr<std::vector<CostModel>> Models(const PlanRequest& request) {
  RETURN_IF_ERROR(CheckModelCount(request.models.size()));
  std::vector<CostModel> models;
  for (const std::string& name : request.models) {
    ASSIGN_OR_RETURN(CostModel model, ModelNamed(name));
    models.push_back(std::move(model));
  }
  return models;
}

double KvRatio(const CostModel& model, int64_t n_tokens) {
  return static_cast<double>(model.KvBytes(n_tokens)) / static_cast<double>(CostModel::OfV32().KvBytes(n_tokens));
}

double FlopsRatio(const CostModel& model, int64_t n_tokens) {
  return model.Fp8EquivalentFlops(n_tokens) / CostModel::OfV32().Fp8EquivalentFlops(n_tokens);
}

std::string GigaText(double flops) { return fmt::format("{:.4g}", flops / 1e9); }

// Names of every part of any of the models, in order of first appearance.
std::vector<std::string> PartNames(const std::vector<CostModel>& models) {
  std::vector<std::string> names;
  for (const CostModel& model : models) {
    for (const engine::FlopsPart& part : model.Flops(1)) {
      if (std::find(names.begin(), names.end(), part.name) == names.end()) names.push_back(part.name);
    }
  }
  return names;
}

class PlanTableBuilder {
 public:
  PlanTableBuilder(const std::vector<CostModel>& models, int64_t memory_bytes)
      : models_(models), memory_bytes_(memory_bytes) {}

  std::string Build(const std::vector<int64_t>& contexts) {
    Row("", [](const CostModel& m) { return m.name(); });
    Row("parameters", [](const CostModel& m) { return CountText(static_cast<double>(m.total_parameters())); });
    Row("active per token", [](const CostModel& m) { return CountText(static_cast<double>(m.active_parameters())); });
    Row("weights as stored", [](const CostModel& m) { return OrDash(m.stored_bytes()); });
    Row("KV per token", [](const CostModel& m) { return fmt::format("{:.1f} B", m.kv_bytes_per_token()); });
    Row("KV per block of 256", [](const CostModel& m) { return OrDash(m.block_bytes()); });
    Row("state per session", [](const CostModel& m) { return OrDash(m.state_bytes()); });
    for (const int64_t n : contexts) AddContext(n);
    return table_.ToString();
  }

 private:
  static std::string OrDash(int64_t bytes) { return bytes == 0 ? "-" : BytesText(static_cast<double>(bytes)); }

  template <typename Cell>
  void Row(std::string label, const Cell& cell) {
    TextTable::Row row{std::move(label), {}};
    for (const CostModel& model : models_) row.cells.push_back(cell(model));
    table_.rows.push_back(std::move(row));
  }

  void AddContext(int64_t n) {
    table_.rows.push_back({fmt::format("\nAt {} tokens", n), {}});
    Row("KV", [&](const CostModel& m) { return BytesText(static_cast<double>(m.KvBytes(n))); });
    Row("  of V3.2", [&](const CostModel& m) { return PercentText(KvRatio(m, n)); });
    Row("reserved per session", [&](const CostModel& m) { return BytesText(static_cast<double>(m.ReservedBytes(n))); });
    Row(fmt::format("sessions in {}", BytesText(static_cast<double>(memory_bytes_))),
        [&](const CostModel& m) { return std::to_string(m.SessionsIn(memory_bytes_, n)); });
    table_.rows.push_back({"GFLOPs per token", {}});
    for (const std::string& name : PartNames(models_)) {
      Row("  " + name, [&](const CostModel& m) {
        for (const engine::FlopsPart& part : m.Flops(n)) {
          if (part.name == name) return GigaText(part.flops);
        }
        return std::string("-");
      });
    }
    Row("  total", [&](const CostModel& m) { return GigaText(m.TotalFlops(n)); });
    Row("  in FP8 equivalents", [&](const CostModel& m) { return GigaText(m.Fp8EquivalentFlops(n)); });
    Row("  of V3.2", [&](const CostModel& m) { return PercentText(FlopsRatio(m, n)); });
  }

  const std::vector<CostModel>& models_;
  int64_t memory_bytes_;
  TextTable table_;
};

ordered_json ContextJson(const CostModel& model, int64_t n_tokens, int64_t memory_bytes) {
  ordered_json parts = ordered_json::object();
  for (const engine::FlopsPart& part : model.Flops(n_tokens)) parts[part.name] = part.flops;
  return {{"context", n_tokens},
          {"kv_bytes", model.KvBytes(n_tokens)},
          {"kv_ratio_to_v32", KvRatio(model, n_tokens)},
          {"reserved_bytes", model.ReservedBytes(n_tokens)},
          {"sessions", model.SessionsIn(memory_bytes, n_tokens)},
          {"flops_per_token", parts},
          {"flops_per_token_total", model.TotalFlops(n_tokens)},
          {"fp8_equivalent_flops_per_token", model.Fp8EquivalentFlops(n_tokens)},
          {"flops_ratio_to_v32", FlopsRatio(model, n_tokens)}};
}

}  // namespace

absl::StatusOr<int64_t> ParseContext(std::string_view text) {
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view suffix(rest, static_cast<size_t>(text.data() + text.size() - rest));
  const int64_t unit = suffix.empty() ? 1 : suffix == "K" ? 1 << 10 : suffix == "M" ? 1 << 20 : 0;
  if (error != std::errc() || unit == 0 || value < 1 || value > kMaxContext / unit) {
    return absl::InvalidArgumentError(
        fmt::format("--context \"{}\": must be from 1 to {} tokens, as 4096, 128K or 1M", text, kMaxContext));
  }
  return value * unit;
}

absl::StatusOr<std::string> PlanTable(const PlanRequest& request) {
  ASSIGN_OR_RETURN(const std::vector<CostModel> models, Models(request));
  return PlanTableBuilder(models, request.memory_bytes).Build(request.contexts);
}

absl::StatusOr<std::string> PlanJson(const PlanRequest& request) {
  ASSIGN_OR_RETURN(const std::vector<CostModel> models, Models(request));
  ordered_json out = {{"memory_bytes", request.memory_bytes}, {"models", ordered_json::array()}};
  for (const CostModel& model : models) {
    ordered_json entry = {{"name", model.name()},
                          {"parameters", model.total_parameters()},
                          {"active_parameters", model.active_parameters()},
                          {"stored_bytes", model.stored_bytes()},
                          {"kv_bytes_per_token", model.kv_bytes_per_token()},
                          {"block_bytes", model.block_bytes()},
                          {"state_bytes", model.state_bytes()},
                          {"at", ordered_json::array()}};
    for (const int64_t n : request.contexts) entry["at"].push_back(ContextJson(model, n, request.memory_bytes));
    out["models"].push_back(std::move(entry));
  }
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace longshelf::cli
