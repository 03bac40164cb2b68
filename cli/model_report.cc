#include "cli/model_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "common/status.h"
#include "engine/model/kv_layout.h"
#include "engine/model/plan.h"
#include "engine/model/weights.h"
#include "report_text.h"

namespace longshelf::cli {
namespace {

using engine::ModelConfig;
using engine::ParameterPart;
using nlohmann::ordered_json;

constexpr size_t kShownUnused = 10;

std::string Hex(const std::array<uint8_t, 32>& digest) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

void ShowProgress(const engine::LoadProgress& progress) {
  const double share = progress.bytes_total == 0
                           ? 1.0
                           : static_cast<double>(progress.bytes_done) / static_cast<double>(progress.bytes_total);
  fmt::print(stderr, "\rreading weights: {:3.0f} % of {}{}", share * 100.0,
             BytesText(static_cast<double>(progress.bytes_total)),
             progress.bytes_done == progress.bytes_total ? "\n" : "");
}

std::vector<int64_t> LayersWithRatio(const ModelConfig& config, int ratio) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    if (config.ratio(layer) == ratio) layers.push_back(layer);
  }
  return layers;
}

std::string LayersText(const std::vector<int64_t>& layers) {
  return layers.empty() ? "none" : fmt::format("{}: {}", layers.size(), RangesText(layers));
}

std::string ShapesText(const ModelConfig& c) {
  TextTable table;
  const auto add = [&](std::string label, std::string value) {
    table.rows.push_back({"  " + label, {}});
    table.rows.back().label = fmt::format("  {:<22}{}", label, value);
  };
  const bool dspark = c.dspark.n_stages > 0;
  add("layers", dspark ? fmt::format("{} + {} DSpark", c.n_layers, c.dspark.n_stages)
                       : fmt::format("{} + {} MTP", c.n_layers, c.n_mtp_layers));
  add("hidden size", fmt::format("{} x {} streams", c.hidden_size, c.hc_mult));
  add("vocabulary", std::to_string(c.vocab_size));
  add("attention heads", fmt::format("{} x {} ({} rotary), 1 KV head", c.n_heads, c.head_dim, c.rope_dim));
  add("query, output rank", fmt::format("{}, {} groups x {}", c.q_lora_rank, c.o_groups, c.o_lora_rank));
  add("window", fmt::format("{} tokens", c.window));
  add("indexer", fmt::format("{} heads x {}, top {}", c.index_n_heads, c.index_head_dim, c.index_topk));
  add("experts", fmt::format("{} routed ({}), {} per token, {} shared, width {}", c.n_routed_experts, c.expert_dtype,
                             c.n_experts_per_token, c.n_shared_experts, c.moe_intermediate_size));
  add("positions", std::to_string(c.max_positions));
  return table.ToString();
}

std::string ScheduleText(const ModelConfig& c) {
  std::string out;
  out += fmt::format("  {:<22}{}\n", "sliding window only", LayersText(LayersWithRatio(c, 0)));
  out += fmt::format("  {:<22}{}\n", "CSA (4 to 1)", LayersText(LayersWithRatio(c, 4)));
  out += fmt::format("  {:<22}{}\n", "HCA (128 to 1)", LayersText(LayersWithRatio(c, 128)));
  std::vector<int64_t> hash_layers;
  for (int64_t layer = 0; layer < c.n_hash_layers; ++layer) hash_layers.push_back(layer);
  return out + fmt::format("  {:<22}{}\n", "hash-routed experts", LayersText(hash_layers));
}

std::string ParametersText(const engine::ParameterTable& table) {
  TextTable text;
  text.rows.push_back({"", {"total", "active", "stored"}});
  const auto add = [&](const std::string& label, const ParameterPart& part) {
    text.rows.push_back({"  " + label,
                         {CountText(static_cast<double>(part.total)), CountText(static_cast<double>(part.active)),
                          BytesText(static_cast<double>(part.stored_bytes))}});
  };
  for (const ParameterPart& part : table.parts) add(std::string(part.name), part);
  add("main model", table.main);
  if (table.draft_module.total > 0) {
    ParameterPart both = table.main;
    both.total += table.draft_module.total;
    both.active += table.draft_module.active;
    both.stored_bytes += table.draft_module.stored_bytes;
    add(std::string(table.draft_module.name), table.draft_module);
    add("with " + std::string(table.draft_module.name), both);
  }
  return text.ToString();
}

std::string KvText(const ModelConfig& config, const engine::CostModel& cost) {
  const engine::KvLayout layout(config, engine::Numerics::kNative);
  std::string out;
  const auto add = [&](std::string_view label, const std::string& value) {
    out += fmt::format("  {:<22}{}\n", label, value);
  };
  add("entry, index key", fmt::format("{} B, {} B", layout.entry_bytes(), layout.index_key_bytes()));
  add("per token", fmt::format("{:.4f} B", cost.kv_bytes_per_token()));
  add("per block", fmt::format("{} B for {} tokens", layout.block_bytes(), engine::kBlockTokens));
  add("state per session", fmt::format("{} B", cost.state_bytes()));
  const int64_t n = config.max_positions;
  add(fmt::format("at {} tokens", n), BytesText(static_cast<double>(cost.KvBytes(n))));
  return out;
}

std::string CheckpointText(const ModelConfig& config, const CheckpointSummary& checkpoint) {
  if (!checkpoint.has_tensors) return "tensors: none here (config.json only)\n";
  std::string out = "tensors: every one the config implies is there, with its dtype and shape\n";
  const bool named = config.n_mtp_layers > 0 || config.dspark.n_stages > 0;
  if (named && !checkpoint.has_draft_module) out += "  no draft module; the model runs without\n";
  if (!checkpoint.unused_tensors.empty()) {
    out += fmt::format("  not used: {}{}\n", checkpoint.unused_tensors.size(),
                       checkpoint.unused_tensors.size() >= 1000 ? " or more" : "");
    for (size_t i = 0; i < std::min(kShownUnused, checkpoint.unused_tensors.size()); ++i) {
      out +=
          fmt::format("    {}\n", std::string(absl::Utf8SafeCEscape(absl::string_view(checkpoint.unused_tensors[i]))));
    }
  }
  if (!checkpoint.digest.empty()) out += fmt::format("  digest {}\n", checkpoint.digest);
  return out;
}

ordered_json PartJson(const ParameterPart& part) {
  return {{"total", part.total}, {"active", part.active}, {"stored_bytes", part.stored_bytes}};
}

}  // namespace

absl::StatusOr<CheckpointSummary> SummarizeCheckpoint(const std::filesystem::path& model_dir, bool with_digest) {
  CheckpointSummary summary;
  std::error_code error;
  if (!std::filesystem::is_directory(model_dir, error)) return summary;
  const auto weights =
      with_digest ? engine::LoadModelWeights(model_dir, ShowProgress) : engine::OpenModelWeights(model_dir);
  if (absl::IsNotFound(weights.status()) &&
      !std::filesystem::exists(model_dir / "model.safetensors.index.json", error)) {
    return summary;
  }
  if (!weights.ok()) return weights.status();
  summary.has_tensors = true;
  summary.has_draft_module = !(*weights)->mtp.empty() || (*weights)->dspark.has_value();
  summary.unused_tensors = (*weights)->unused_tensors;
  if (with_digest) summary.digest = Hex((*weights)->digest);
  return summary;
}

std::string ModelInfoText(const std::string& title, const ModelConfig& config, const CheckpointSummary& checkpoint) {
  const engine::CostModel cost = engine::CostModel::OfV4(title, config);
  return fmt::format("{}: DeepSeek-V4\nshapes\n{}attention schedule\n{}parameters\n{}KV (native numerics)\n{}{}", title,
                     ShapesText(config), ScheduleText(config), ParametersText(engine::CountParameters(config)),
                     KvText(config, cost), CheckpointText(config, checkpoint));
}

std::string ModelInfoJson(const ModelConfig& config, const CheckpointSummary& checkpoint) {
  const engine::CostModel cost = engine::CostModel::OfV4("", config);
  const engine::ParameterTable table = engine::CountParameters(config);
  const engine::KvLayout layout(config, engine::Numerics::kNative);
  ordered_json parts = ordered_json::object();
  for (const ParameterPart& part : table.parts) parts[std::string(part.name)] = PartJson(part);
  const ordered_json out = {
      {"layers", config.n_layers},
      {"mtp_layers", config.n_mtp_layers},
      {"dspark_stages", config.dspark.n_stages},
      {"hash_layers", config.n_hash_layers},
      {"hidden_size", config.hidden_size},
      {"vocab_size", config.vocab_size},
      {"heads", config.n_heads},
      {"head_dim", config.head_dim},
      {"routed_experts", config.n_routed_experts},
      {"experts_per_token", config.n_experts_per_token},
      {"expert_dtype", config.expert_dtype},
      {"compress_ratios", config.compress_ratios},
      {"max_positions", config.max_positions},
      {"parameters",
       {{"parts", parts}, {"main", PartJson(table.main)}, {"draft_module", PartJson(table.draft_module)}}},
      {"kv",
       {{"bytes_per_token", cost.kv_bytes_per_token()},
        {"block_tokens", engine::kBlockTokens},
        {"block_bytes", layout.block_bytes()},
        {"state_bytes", cost.state_bytes()},
        {"entry_bytes", layout.entry_bytes()},
        {"index_key_bytes", layout.index_key_bytes()},
        {"bytes_at_max_positions", cost.KvBytes(config.max_positions)}}},
      {"checkpoint",
       {{"has_tensors", checkpoint.has_tensors},
        {"has_draft_module", checkpoint.has_draft_module},
        {"unused_tensors", checkpoint.unused_tensors},
        {"digest", checkpoint.digest}}}};
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace longshelf::cli
