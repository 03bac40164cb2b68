#include "engine/model/plan.h"

#include <algorithm>

#include "engine/model/kv_layout.h"

namespace longshelf::engine {
namespace {

// DeepSeek-V3.2 as published (config.json of the release); MLA in its absorbed form, as decoding runs it.
struct V32 {
  static constexpr int64_t kLayers = 61;
  static constexpr int64_t kDenseLayers = 3;
  static constexpr int64_t kHidden = 7168;
  static constexpr int64_t kDenseIntermediate = 18432;
  static constexpr int64_t kExpertIntermediate = 2048;
  static constexpr int64_t kExperts = 256;
  static constexpr int64_t kExpertsPerToken = 8;
  static constexpr int64_t kHeads = 128;
  static constexpr int64_t kQLora = 1536;
  static constexpr int64_t kLatent = 512;
  static constexpr int64_t kNope = 128;
  static constexpr int64_t kRope = 64;
  static constexpr int64_t kIndexHeads = 64;
  static constexpr int64_t kIndexDim = 128;
  static constexpr int64_t kIndexTopk = 2048;
  static constexpr int64_t kVocab = 129280;
  // FP8 latent, one F32 scale per 128 of it, BF16 rotary part; FP8 index key with one F32 scale.
  static constexpr int64_t kKvRowBytes = kLatent + kLatent / 128 * 4 + kRope * 2;
  static constexpr int64_t kIndexRowBytes = kIndexDim + 4;

  static constexpr int64_t AttentionParameters() {
    return kQLora * kHidden + kHeads * (kNope + kRope) * kQLora + (kLatent + kRope) * kHidden +
           2 * kHeads * kNope * kLatent + kHidden * kHeads * kNope;
  }
  static constexpr int64_t IndexerParameters() {
    return kIndexHeads * kIndexDim * kQLora + kIndexDim * kHidden + kIndexHeads * kHidden;
  }
  static constexpr int64_t DenseParameters() { return kDenseLayers * 3 * kHidden * kDenseIntermediate; }
  static constexpr int64_t ExpertParameters(int64_t n_routed) {
    return (kLayers - kDenseLayers) * ((n_routed + 1) * 3 * kHidden * kExpertIntermediate + kExperts * kHidden);
  }
};

}  // namespace

CostModel CostModel::OfV4(std::string name, const ModelConfig& config) {
  // MTP drafts are optional work: a plan is about the model itself.
  ModelConfig main = config;
  main.n_mtp_layers = 0;
  main.compress_ratios.resize(static_cast<size_t>(main.n_layers));
  const KvLayout layout(main, Numerics::kNative);
  const ParameterTable parameters = CountParameters(main);

  CostModel model;
  model.name_ = std::move(name);
  model.total_parameters_ = parameters.main.total;
  model.active_parameters_ = parameters.main.active;
  model.stored_bytes_ = parameters.main.stored_bytes;
  model.block_bytes_ = static_cast<int64_t>(layout.block_bytes());
  model.state_bytes_ = static_cast<int64_t>(layout.state_bytes());
  for (const KvComponent& component : layout.components()) {
    model.rows_.push_back({component.ratio, component.row_bytes, 0});
  }
  model.rows_.insert(model.rows_.end(), static_cast<size_t>(main.n_layers), {1, layout.entry_bytes(), main.window});
  for (const ParameterPart& part : parameters.parts) {
    if (part.active > 0) {
      model.fixed_flops_.push_back({std::string(part.name), 2.0 * static_cast<double>(part.active), 1.0});
    }
  }
  const auto heads = static_cast<double>(main.n_heads);
  const double per_key = 2.0 * heads * 2.0 * static_cast<double>(main.head_dim);  // q.k and a.v
  model.index_fp8_weight_ = 0.5;
  for (const int ratio : main.compress_ratios) {
    auto keys = static_cast<double>(main.window);
    if (ratio == 4) {
      keys += static_cast<double>(main.index_topk);
      model.index_flops_per_token_ += 2.0 * static_cast<double>(main.index_n_heads * main.index_head_dim) / ratio;
    } else if (ratio != 0) {
      model.attention_flops_per_token_ += per_key / ratio;
    }
    model.attention_flops_fixed_ += per_key * keys;
  }
  return model;
}

CostModel CostModel::OfV32() {
  CostModel model;
  model.name_ = "v3.2";
  const int64_t shared_by_all = V32::kLayers * (V32::AttentionParameters() + V32::IndexerParameters()) +
                                V32::DenseParameters() + V32::kVocab * V32::kHidden;
  model.active_parameters_ = shared_by_all + V32::ExpertParameters(V32::kExpertsPerToken);
  model.total_parameters_ = shared_by_all + V32::kVocab * V32::kHidden + V32::ExpertParameters(V32::kExperts);
  model.rows_.insert(model.rows_.end(), V32::kLayers, {1, V32::kKvRowBytes + V32::kIndexRowBytes, 0});
  model.fixed_flops_ = {
      {"attention projections", 2.0 * static_cast<double>(V32::kLayers * V32::AttentionParameters()), 1.0},
      {"indexers", 2.0 * static_cast<double>(V32::kLayers * V32::IndexerParameters()), 1.0},
      {"dense layers", 2.0 * static_cast<double>(V32::DenseParameters()), 1.0},
      {"gates and experts", 2.0 * static_cast<double>(V32::ExpertParameters(V32::kExpertsPerToken)), 1.0},
      {"output head", 2.0 * static_cast<double>(V32::kVocab * V32::kHidden), 1.0},
  };
  model.index_flops_per_token_ = static_cast<double>(V32::kLayers) * 2.0 * V32::kIndexHeads * V32::kIndexDim;
  model.index_fp8_weight_ = 1.0;
  model.attention_flops_fixed_ = static_cast<double>(V32::kLayers) * 2.0 * V32::kHeads *
                                 (V32::kLatent + V32::kRope + V32::kLatent) * V32::kIndexTopk;
  return model;
}

double CostModel::kv_bytes_per_token() const {
  double bytes = 0;
  for (const KvRow& row : rows_) {
    if (row.max_tokens == 0) {
      bytes += static_cast<double>(row.row_bytes) / static_cast<double>(row.tokens_per_row);
    }
  }
  return bytes;
}

int64_t CostModel::KvBytes(int64_t n_tokens) const {
  int64_t bytes = 0;
  for (const KvRow& row : rows_) {
    const int64_t n_kept = row.max_tokens == 0 ? n_tokens : std::min(n_tokens, row.max_tokens);
    bytes += n_kept / row.tokens_per_row * row.row_bytes;
  }
  return bytes;
}

int64_t CostModel::ReservedBytes(int64_t n_tokens) const {
  if (block_bytes_ == 0 && state_bytes_ == 0) {
    return KvBytes(n_tokens);
  }
  return (n_tokens + kBlockTokens - 1) / kBlockTokens * block_bytes_ + state_bytes_;
}

int64_t CostModel::SessionsIn(int64_t memory_bytes, int64_t n_tokens) const {
  return memory_bytes / std::max<int64_t>(ReservedBytes(n_tokens), 1);
}

std::vector<FlopsPart> CostModel::Flops(int64_t n_tokens) const {
  const auto n = static_cast<double>(n_tokens);
  std::vector<FlopsPart> parts = fixed_flops_;
  parts.push_back({"index scores", index_flops_per_token_ * n, index_fp8_weight_});
  parts.push_back({"attention", attention_flops_fixed_ + attention_flops_per_token_ * n, 2.0});
  return parts;
}

double CostModel::TotalFlops(int64_t n_tokens) const {
  double sum = 0;
  for (const FlopsPart& part : Flops(n_tokens)) {
    sum += part.flops;
  }
  return sum;
}

double CostModel::Fp8EquivalentFlops(int64_t n_tokens) const {
  double sum = 0;
  for (const FlopsPart& part : Flops(n_tokens)) {
    sum += part.flops * part.fp8_weight;
  }
  return sum;
}

}  // namespace longshelf::engine
