#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/config.h"

namespace longshelf::engine {

// What a model costs, from its config alone: parameters, bytes of KV, arithmetic per token. Pure functions of the
// config; `longshelf plan`, `longshelf model info` and admission use them.

struct ParameterPart {
  std::string_view name;
  int64_t total = 0;         // trained numbers (tables of expert ids are not)
  int64_t active = 0;        // numbers that one token multiplies with
  int64_t stored_bytes = 0;  // in the published formats, scales and tables included
};

struct ParameterTable {
  std::vector<ParameterPart> parts;  // of the main model
  ParameterPart main;                // their sum
  ParameterPart draft_module;        // by its name, "MTP" or "DSpark"; shares embedding and head with the main model
};

ParameterTable CountParameters(const ModelConfig& config);

// One part of the arithmetic of a token.
struct FlopsPart {
  std::string name;
  double flops = 0;
  // Cost of one of these in FP8 operations: FP8 and FP4 x FP8 linears 1, FP4 index scores 0.5, BF16 attention 2.
  double fp8_weight = 1;
};

// Costs of a model as functions of the context length, with the KV formats it is served with. MTP is not counted.
class CostModel {
 public:
  static CostModel OfV4(std::string name, const ModelConfig& config);
  // DeepSeek-V3.2, the baseline of the published comparison: MLA with FP8 latents, FP8 index keys on every token.
  static CostModel OfV32();

  const std::string& name() const { return name_; }
  int64_t total_parameters() const { return total_parameters_; }
  int64_t active_parameters() const { return active_parameters_; }
  // 0 when unknown (V3.2).
  int64_t stored_bytes() const { return stored_bytes_; }

  // What one more token adds, averaged over a block.
  double kv_bytes_per_token() const;
  // Records that exist after n_tokens: compressed entries, index keys, windows.
  int64_t KvBytes(int64_t n_tokens) const;
  // What the engine sets aside for a sequence of n_tokens: whole blocks and a state slot (windows and compressor
  // carry). For V3.2 the same as KvBytes.
  int64_t ReservedBytes(int64_t n_tokens) const;
  int64_t block_bytes() const { return block_bytes_; }  // 256 tokens; 0 for V3.2
  int64_t state_bytes() const { return state_bytes_; }
  // Whole sequences of n_tokens that fit.
  int64_t SessionsIn(int64_t memory_bytes, int64_t n_tokens) const;

  // Of one token whose query sees n_tokens of context.
  std::vector<FlopsPart> Flops(int64_t n_tokens) const;
  double TotalFlops(int64_t n_tokens) const;
  double Fp8EquivalentFlops(int64_t n_tokens) const;

 private:
  struct KvRow {
    int64_t tokens_per_row = 1;
    int64_t row_bytes = 0;
    int64_t max_tokens = 0;  // 0 = all; a window keeps only the last ones
  };
  std::string name_;
  int64_t total_parameters_ = 0;
  int64_t active_parameters_ = 0;
  int64_t stored_bytes_ = 0;
  int64_t block_bytes_ = 0;
  int64_t state_bytes_ = 0;
  std::vector<KvRow> rows_;             // per layer and kind
  std::vector<FlopsPart> fixed_flops_;  // whatever the context
  double index_flops_per_token_ = 0;    // times the context
  double index_fp8_weight_ = 1;
  double attention_flops_fixed_ = 0;
  double attention_flops_per_token_ = 0;  // times the context
};

}  // namespace longshelf::engine
