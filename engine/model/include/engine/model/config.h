#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::engine {

// Which roundings happen between operations (docs/numerics.md). kNative: those of the published inference; kFp32: none,
// plain fp32, for comparison with other implementations.
enum class Numerics { kNative, kFp32 };

std::string_view NumericsName(Numerics numerics);  // "native" | "fp32"

// Tokens of a sequence that may be taken back, at most.
inline constexpr int64_t kDraftTokensLimit = 64;

// The draft module of DSpark checkpoints, which take it in place of MTP layers. It drafts blocks of tokens.
struct DsparkConfig {
  int64_t n_stages = 0;                // one for every compress_ratio after the layers', or n_mtp_layers; 0 = no module
  int64_t block_size = 0;              // dspark_block_size
  uint32_t noise_token_id = 0;         // dspark_noise_token_id
  std::vector<int64_t> target_layers;  // dspark_target_layer_ids, ascending
  int64_t markov_rank = 0;             // dspark_markov_rank
};

// Which draft module guesses tokens ahead of the main model.
enum class DrafterKind : uint8_t { kNone, kMtp, kDspark };

std::string_view DrafterName(DrafterKind kind);  // "none" | "mtp" | "dspark"

// config.json of a DeepSeek-V4 checkpoint. Field comments name the key; other spellings are accepted too
// (docs/checkpoints.md).
struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;    // D
  int64_t n_layers = 0;       // num_hidden_layers
  int64_t n_mtp_layers = 0;   // num_nextn_predict_layers
  int64_t n_hash_layers = 0;  // num_hash_layers, or mlp_layer_types
  int64_t n_heads = 0;        // num_attention_heads
  int64_t head_dim = 0;
  int64_t rope_dim = 0;  // qk_rope_head_dim, or partial_rotary_factor * head_dim
  int64_t q_lora_rank = 0;
  int64_t o_groups = 0;
  int64_t o_lora_rank = 0;
  int64_t window = 0;                // sliding_window
  std::vector<int> compress_ratios;  // one per layer, then one per MTP layer; 0, 4 or 128. Or layer_types
  int64_t index_n_heads = 0;
  int64_t index_head_dim = 0;
  int64_t index_topk = 0;
  int64_t n_routed_experts = 0;  // E
  int64_t n_shared_experts = 0;
  int64_t n_experts_per_token = 0;    // num_experts_per_tok
  int64_t moe_intermediate_size = 0;  // I
  double routed_scaling_factor = 1.0;
  double swiglu_limit = 0.0;        // 0 = no clamp
  bool clamp_shared_expert = true;  // as the current published code does; its first release did not
  int64_t hc_mult = 4;
  int64_t hc_sinkhorn_iters = 20;
  double hc_eps = 1e-6;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  double compress_rope_theta = 160000.0;
  double rope_factor = 16.0;               // rope_scaling.factor
  int64_t original_max_positions = 65536;  // rope_scaling.original_max_position_embeddings
  double rope_beta_fast = 32.0;
  double rope_beta_slow = 1.0;
  int64_t max_positions = 0;  // max_position_embeddings
  DsparkConfig dspark;
  uint32_t bos_token_id = 0;
  uint32_t eos_token_id = 1;
  std::string expert_dtype = "fp4";  // "fp4" | "fp8"

  int64_t nope_dim() const { return head_dim - rope_dim; }
  // Layer index n_layers + i is MTP layer i.
  int ratio(int64_t layer) const { return compress_ratios[static_cast<size_t>(layer)]; }
  bool is_hash_layer(int64_t layer) const { return layer < n_hash_layers; }
};

// INVALID_ARGUMENT: not JSON, another architecture, a missing key, a value out of its bounds; names the key, the value
// and the bound. Every size is bounded here, before anything is allocated from it.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json);
// From a checkpoint directory, or from the file itself. Of a directory, the end of sequence of generation_config.json
// counts before that of config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir);

// The published configurations, for planning and benchmarks without a checkpoint at hand.
ModelConfig FlashConfig();
ModelConfig ProConfig();

}  // namespace longshelf::engine
