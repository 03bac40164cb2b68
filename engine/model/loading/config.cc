#include "engine/model/config.h"

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "config_reader.h"
#include "json_fields.h"
#include "model_files.h"
#include "text.h"

namespace longshelf::engine {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxConfigDepth = 16;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxMtpLayers = 8;

struct IntField {
  std::vector<std::string_view> keys;  // the published key, then its other spellings
  int64_t ModelConfig::*member;
  int64_t min;
  int64_t max;
};

struct DoubleField {
  std::vector<std::string_view> keys;
  double ModelConfig::*member;
  double min;
  double max;
};

// Sizes without which there is no model. The second spelling is that of the reference's own inference/config.json.
const std::vector<IntField>& RequiredSizes() {
  static const std::vector<IntField> fields = {
      {{"vocab_size"}, &ModelConfig::vocab_size, 2, 1 << 21},
      {{"hidden_size", "dim"}, &ModelConfig::hidden_size, 32, 65536},
      {{"num_hidden_layers", "n_layers"}, &ModelConfig::n_layers, 1, kMaxLayers},
      {{"num_attention_heads", "n_heads"}, &ModelConfig::n_heads, 1, 1024},
      {{"head_dim"}, &ModelConfig::head_dim, 4, 4096},
      {{"q_lora_rank"}, &ModelConfig::q_lora_rank, 1, 65536},
      {{"o_groups"}, &ModelConfig::o_groups, 1, 1024},
      {{"o_lora_rank"}, &ModelConfig::o_lora_rank, 1, 65536},
      {{"sliding_window", "window_size"}, &ModelConfig::window, 1, 65536},
      {{"n_routed_experts", "num_local_experts"}, &ModelConfig::n_routed_experts, 1, 4096},
      {{"num_experts_per_tok", "n_activated_experts"}, &ModelConfig::n_experts_per_token, 1, 64},
  };
  return fields;
}

// Absent means the value ModelConfig starts with.
const std::vector<IntField>& OptionalSizes() {
  static const std::vector<IntField> fields = {
      {{"index_n_heads"}, &ModelConfig::index_n_heads, 1, 1024},
      {{"index_head_dim"}, &ModelConfig::index_head_dim, 32, 1024},
      {{"index_topk"}, &ModelConfig::index_topk, 1, 1 << 20},
      {{"hc_mult"}, &ModelConfig::hc_mult, 1, 16},
      {{"hc_sinkhorn_iters"}, &ModelConfig::hc_sinkhorn_iters, 1, 1000},
  };
  return fields;
}

const std::vector<DoubleField>& OptionalNumbers() {
  static const std::vector<DoubleField> fields = {
      {{"hc_eps"}, &ModelConfig::hc_eps, 0.0, 0.1},
      {{"rms_norm_eps", "norm_eps"}, &ModelConfig::rms_norm_eps, 0.0, 0.1},
  };
  return fields;
}

// What the forward pass takes for granted; a checkpoint that says otherwise is another model.
absl::Status CheckFixedChoices(const ConfigReader& reader) {
  RETURN_IF_ERROR(reader.ExpectString({"scoring_func", "score_func"}, "sqrtsoftplus"));
  RETURN_IF_ERROR(reader.ExpectString({"topk_method"}, "noaux_tc"));
  RETURN_IF_ERROR(reader.ExpectString({"hidden_act"}, "silu"));
  RETURN_IF_ERROR(reader.ExpectBool("norm_topk_prob", true));
  RETURN_IF_ERROR(reader.ExpectBool("attention_bias", false));
  RETURN_IF_ERROR(reader.ExpectBool("tie_word_embeddings", false));
  ASSIGN_OR_RETURN(const int64_t n_kv_heads, reader.Int({"num_key_value_heads"}, 1, 1024, 1));
  if (n_kv_heads != 1) {
    return absl::InvalidArgumentError(Cat("num_key_value_heads: is ", n_kv_heads, ", must be 1"));
  }
  ASSIGN_OR_RETURN(const std::optional<ConfigReader> quantization, reader.Object("quantization_config"));
  if (!quantization.has_value()) {
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(quantization->ExpectString({"quant_method"}, "fp8"));
  RETURN_IF_ERROR(quantization->ExpectString({"fmt"}, "e4m3"));
  RETURN_IF_ERROR(quantization->ExpectString({"scale_fmt"}, "ue8m0"));
  ASSIGN_OR_RETURN(const std::optional<std::vector<int64_t>> block,
                   quantization->IntList("weight_block_size", 2, 1, 1 << 20));
  if (block.has_value() && (block->size() != 2 || (*block)[0] != 128 || (*block)[1] != 128)) {
    return absl::InvalidArgumentError(
        Cat("quantization_config.weight_block_size: is [", absl::StrJoin(*block, ", "), "], must be [128, 128]"));
  }
  return absl::OkStatus();
}

absl::Status CheckArchitecture(const ConfigReader& reader) {
  ASSIGN_OR_RETURN(const std::optional<std::string> model_type, reader.String({"model_type"}));
  if (model_type.has_value() && *model_type != "deepseek_v4") {
    return absl::InvalidArgumentError(
        Cat("model_type: ", QuotedName(*model_type), " is another architecture; this engine runs deepseek_v4"));
  }
  ASSIGN_OR_RETURN(const std::optional<std::vector<std::string>> architectures, reader.StringList("architectures", 16));
  for (const std::string& name : architectures.value_or(std::vector<std::string>())) {
    if (!name.starts_with("DeepseekV4For")) {
      return absl::InvalidArgumentError(
          Cat("architectures: ", QuotedName(name), " is another architecture; this engine runs DeepseekV4ForCausalLM"));
    }
  }
  // The reference's inference/config.json names no architecture; its spelling of hidden_size tells it apart.
  if (!model_type.has_value() && !architectures.has_value() && !(reader.Has("dim") && reader.Has("compress_ratios"))) {
    return absl::InvalidArgumentError("model_type: missing; it must be \"deepseek_v4\"");
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const ConfigReader& reader, ModelConfig& config) {
  for (const IntField& field : RequiredSizes()) {
    ASSIGN_OR_RETURN(config.*field.member, reader.Int(field.keys, field.min, field.max, std::nullopt));
  }
  for (const IntField& field : OptionalSizes()) {
    ASSIGN_OR_RETURN(config.*field.member, reader.Int(field.keys, field.min, field.max, config.*field.member));
  }
  for (const DoubleField& field : OptionalNumbers()) {
    ASSIGN_OR_RETURN(config.*field.member, reader.Double(field.keys, field.min, field.max, config.*field.member));
  }
  // Some writers add intermediate_size beside moe_intermediate_size; no V4 layer has a dense FFN, so the latter counts.
  const std::vector<std::string_view> width_keys =
      reader.Has("moe_intermediate_size") || reader.Has("moe_inter_dim")
          ? std::vector<std::string_view>{"moe_intermediate_size", "moe_inter_dim"}
          : std::vector<std::string_view>{"moe_intermediate_size", "intermediate_size"};
  ASSIGN_OR_RETURN(config.moe_intermediate_size, reader.Int(width_keys, 32, 1 << 20, std::nullopt));
  ASSIGN_OR_RETURN(config.n_shared_experts, reader.Int({"n_shared_experts"}, 1, 1, 1));
  ASSIGN_OR_RETURN(config.routed_scaling_factor,
                   reader.Double({"routed_scaling_factor", "route_scale"}, 1e-6, 1e6, std::nullopt));
  ASSIGN_OR_RETURN(
      config.swiglu_limit,
      reader.Double({"swiglu_limit"}, 0.0, 1e9, reader.IsNull("swiglu_limit") ? std::optional(0.0) : std::nullopt));
  ASSIGN_OR_RETURN(const std::optional<std::string> expert_dtype, reader.String({"expert_dtype"}));
  config.expert_dtype = expert_dtype.value_or("fp4");
  if (config.expert_dtype != "fp4" && config.expert_dtype != "fp8") {
    return absl::InvalidArgumentError(
        Cat("expert_dtype: is ", QuotedName(config.expert_dtype), ", must be \"fp4\" or \"fp8\""));
  }
  return absl::OkStatus();
}

absl::Status ReadTokens(const ConfigReader& reader, ModelConfig& config) {
  const int64_t last = config.vocab_size - 1;
  ASSIGN_OR_RETURN(const int64_t bos, reader.FirstInt("bos_token_id", 0, last, 0));
  ASSIGN_OR_RETURN(const int64_t eos, reader.FirstInt("eos_token_id", 0, last, 1));
  config.bos_token_id = static_cast<uint32_t>(bos);
  config.eos_token_id = static_cast<uint32_t>(eos);
  return absl::OkStatus();
}

// Relations between fields that the formats and kernels rely on.
absl::Status CheckRelations(const ModelConfig& c) {
  if (c.hidden_size % 32 != 0 || c.moe_intermediate_size % 32 != 0) {
    return absl::InvalidArgumentError(Cat("hidden_size ", c.hidden_size, ", moe_intermediate_size ",
                                          c.moe_intermediate_size, ": must be multiples of 32 (FP4 scale blocks)"));
  }
  if (c.n_heads % c.o_groups != 0) {
    return absl::InvalidArgumentError(Cat("o_groups: ", c.o_groups, " must divide num_attention_heads ", c.n_heads));
  }
  if (c.n_experts_per_token > c.n_routed_experts) {
    return absl::InvalidArgumentError(Cat("num_experts_per_tok: is ", c.n_experts_per_token,
                                          ", must not exceed n_routed_experts ", c.n_routed_experts));
  }
  if (c.rope_dim < 2 || c.rope_dim % 2 != 0 || c.rope_dim >= c.head_dim) {
    return absl::InvalidArgumentError(
        Cat("qk_rope_head_dim: is ", c.rope_dim, ", must be even and below head_dim ", c.head_dim));
  }
  bool has_indexer = false;
  for (const int ratio : c.compress_ratios) {
    has_indexer = has_indexer || ratio == 4;
  }
  if (!has_indexer) {
    return absl::OkStatus();
  }
  if (c.index_n_heads == 0 || c.index_head_dim == 0 || c.index_topk == 0) {
    return absl::InvalidArgumentError(
        "index_n_heads, index_head_dim, index_topk: needed, compress_ratios has a layer of 4");
  }
  if ((c.index_head_dim & (c.index_head_dim - 1)) != 0 || c.index_head_dim < c.rope_dim) {
    return absl::InvalidArgumentError(Cat("index_head_dim: is ", c.index_head_dim,
                                          ", must be a power of two and at least qk_rope_head_dim ", c.rope_dim));
  }
  return absl::OkStatus();
}

// What is generated ends with, if that file says so.
absl::Status ReadGenerationConfig(const std::filesystem::path& dir, ModelConfig& config) {
  constexpr std::string_view kName = "generation_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(dir / kName, ignored)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, ReadBeneath(dir, kName, kMaxConfigBytes));
  simdjson::dom::parser parser;
  ASSIGN_OR_RETURN(const simdjson::dom::element root, ParseJson(parser, text, kMaxConfigDepth, kName));
  ASSIGN_OR_RETURN(JsonFields fields, UniqueFields(root, kName));
  const ConfigReader reader(std::move(fields), "generation_config.json: ");
  ASSIGN_OR_RETURN(const int64_t eos,
                   reader.FirstInt("eos_token_id", 0, config.vocab_size - 1, int64_t{config.eos_token_id}));
  config.eos_token_id = static_cast<uint32_t>(eos);
  return absl::OkStatus();
}

}  // namespace

std::string_view NumericsName(Numerics numerics) { return numerics == Numerics::kNative ? "native" : "fp32"; }

std::string_view DrafterName(DrafterKind kind) {
  switch (kind) {
    case DrafterKind::kNone:
      break;
    case DrafterKind::kMtp:
      return "mtp";
    case DrafterKind::kDspark:
      return "dspark";
  }
  return "none";
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json) {
  if (json.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        Cat("config.json: has ", json.size(), " bytes, at most ", kMaxConfigBytes, " are read"));
  }
  simdjson::dom::parser parser;
  ASSIGN_OR_RETURN(const simdjson::dom::element root, ParseJson(parser, json, kMaxConfigDepth, "config.json"));
  ASSIGN_OR_RETURN(JsonFields fields, UniqueFields(root, "config.json"));
  const ConfigReader reader(std::move(fields), "");
  ModelConfig config;
  RETURN_IF_ERROR(CheckArchitecture(reader));
  RETURN_IF_ERROR(CheckFixedChoices(reader));
  RETURN_IF_ERROR(ReadSizes(reader, config));
  RETURN_IF_ERROR(ReadSchedule(reader, config));
  RETURN_IF_ERROR(ReadRope(reader, config));
  RETURN_IF_ERROR(ReadTokens(reader, config));
  RETURN_IF_ERROR(CheckRelations(config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir) {
  std::filesystem::path dir = model_dir;
  std::string name = "config.json";
  std::error_code ignored;
  if (std::filesystem::is_regular_file(model_dir, ignored)) {
    name = model_dir.filename().string();
    dir = model_dir.has_parent_path() ? model_dir.parent_path() : ".";
  }
  ASSIGN_OR_RETURN(const std::string text, ReadBeneath(dir, name, kMaxConfigBytes));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) {
    return Annotate(config.status(), (dir / name).string());
  }
  if (name == "config.json" && dir == model_dir) {
    if (const absl::Status status = ReadGenerationConfig(dir, *config); !status.ok()) {
      return Annotate(status, dir.string());
    }
  }
  return config;
}

}  // namespace longshelf::engine
