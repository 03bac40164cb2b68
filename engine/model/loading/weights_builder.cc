#include "weights_builder.h"

#include "common/status.h"
#include "tensor_reader.h"
#include "text.h"

namespace longshelf::engine {
namespace {

// Asks for every tensor that the config implies, by its official name.
class WeightsBuilder {
 public:
  WeightsBuilder(const ModelConfig& config, TensorSource& source, OwnedBuffers& owned)
      : config_(config), reader_(source, owned) {}

  absl::StatusOr<BuiltWeights> Build() {
    BuiltWeights built;
    built.weights = std::make_unique<ModelWeights>();
    ModelWeights& w = *built.weights;
    w.config = config_;
    const int64_t d = config_.hidden_size;
    ASSIGN_OR_RETURN(w.embed, reader_.Plain("embed", config_.vocab_size, d, TensorRole::kEmbedding));
    ASSIGN_OR_RETURN(w.head, reader_.Plain("head", config_.vocab_size, d, TensorRole::kMatrix));
    ASSIGN_OR_RETURN(w.norm, Norm("norm", d));
    ASSIGN_OR_RETURN(w.hc_head, HeadSite("hc_head"));
    for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
      ASSIGN_OR_RETURN(LayerWeights weights,
                       Layer(Cat("layers.", layer, "."), config_.ratio(layer), config_.is_hash_layer(layer)));
      w.layers.push_back(std::move(weights));
    }
    for (int64_t i = 0; i < config_.n_mtp_layers; ++i) {
      ASSIGN_OR_RETURN(MtpWeights weights, Mtp(Cat("mtp.", i, "."), config_.ratio(config_.n_layers + i)));
      w.mtp.push_back(std::move(weights));
    }
    if (config_.dspark.n_stages > 0) {
      ASSIGN_OR_RETURN(w.dspark, Dspark());
    }
    built.used = reader_.TakeUsed();
    return built;
  }

 private:
  absl::StatusOr<std::vector<float>> Norm(std::string_view name, int64_t n) {
    return reader_.Vector(Cat(name, ".weight"), {n}, Dtype::kBf16, TensorRole::kNorm);
  }

  absl::StatusOr<HyperConnection> Site(std::string_view prefix) {
    const int64_t hc = config_.hc_mult;
    return reader_.Hyper(prefix, (2 + hc) * hc, 3, hc * config_.hidden_size);
  }

  absl::StatusOr<HyperConnection> HeadSite(std::string_view prefix) {
    return reader_.Hyper(prefix, config_.hc_mult, 1, config_.hc_mult * config_.hidden_size);
  }

  absl::StatusOr<CompressorWeights> Compressor(const std::string& prefix, int ratio, int64_t dim) {
    const int64_t width = ratio == 4 ? 2 * dim : dim;
    CompressorWeights c;
    ASSIGN_OR_RETURN(c.wkv, reader_.Plain(prefix + "wkv", width, config_.hidden_size, TensorRole::kMatrix));
    ASSIGN_OR_RETURN(c.wgate, reader_.Plain(prefix + "wgate", width, config_.hidden_size, TensorRole::kMatrix));
    ASSIGN_OR_RETURN(c.ape, reader_.Vector(prefix + "ape", {ratio, width}, Dtype::kF32, TensorRole::kSmall));
    ASSIGN_OR_RETURN(c.norm, Norm(prefix + "norm", dim));
    return c;
  }

  absl::StatusOr<IndexerWeights> Indexer(const std::string& prefix) {
    IndexerWeights x;
    ASSIGN_OR_RETURN(x.wq_b, reader_.Quantized(prefix + "wq_b", config_.index_n_heads * config_.index_head_dim,
                                               config_.q_lora_rank));
    ASSIGN_OR_RETURN(x.weights_proj, reader_.Plain(prefix + "weights_proj", config_.index_n_heads, config_.hidden_size,
                                                   TensorRole::kMatrix));
    ASSIGN_OR_RETURN(x.compressor, Compressor(prefix + "compressor.", 4, config_.index_head_dim));
    return x;
  }

  absl::StatusOr<AttentionWeights> Attention(const std::string& prefix, int ratio) {
    const int64_t d = config_.hidden_size;
    const int64_t q = config_.q_lora_rank;
    const int64_t heads = config_.n_heads * config_.head_dim;
    const int64_t out = config_.o_groups * config_.o_lora_rank;
    AttentionWeights a;
    ASSIGN_OR_RETURN(a.wq_a, reader_.Quantized(prefix + "wq_a", q, d));
    ASSIGN_OR_RETURN(a.q_norm, Norm(prefix + "q_norm", q));
    ASSIGN_OR_RETURN(a.wq_b, reader_.Quantized(prefix + "wq_b", heads, q));
    ASSIGN_OR_RETURN(a.wkv, reader_.Quantized(prefix + "wkv", config_.head_dim, d));
    ASSIGN_OR_RETURN(a.kv_norm, Norm(prefix + "kv_norm", config_.head_dim));
    ASSIGN_OR_RETURN(a.wo_a, reader_.Quantized(prefix + "wo_a", out, heads / config_.o_groups));
    ASSIGN_OR_RETURN(a.wo_b, reader_.Quantized(prefix + "wo_b", d, out));
    ASSIGN_OR_RETURN(a.sink, reader_.Vector(prefix + "attn_sink", {config_.n_heads}, Dtype::kF32, TensorRole::kSmall));
    if (ratio != 0) {
      ASSIGN_OR_RETURN(a.compressor, Compressor(prefix + "compressor.", ratio, config_.head_dim));
    }
    if (ratio == 4) {
      ASSIGN_OR_RETURN(a.indexer, Indexer(prefix + "indexer."));
    }
    return a;
  }

  absl::StatusOr<MoeWeights> Moe(const std::string& prefix, bool hash) {
    const int64_t d = config_.hidden_size;
    const int64_t width = config_.moe_intermediate_size;
    const int64_t n_experts = config_.n_routed_experts;
    const bool fp4 = config_.expert_dtype == "fp4";
    MoeWeights m;
    ASSIGN_OR_RETURN(m.gate, reader_.Plain(prefix + "gate", n_experts, d, TensorRole::kMatrix));
    if (hash) {
      ASSIGN_OR_RETURN(m.tid2eid, reader_.HashTable(prefix + "gate.tid2eid", config_.vocab_size,
                                                    config_.n_experts_per_token, n_experts));
    } else {
      ASSIGN_OR_RETURN(m.bias, reader_.Vector(prefix + "gate.bias", {n_experts}, Dtype::kF32, TensorRole::kSmall));
    }
    for (int64_t e = 0; e < n_experts; ++e) {
      const std::string expert = Cat(prefix, "experts.", e, ".");
      ExpertWeights x;
      ASSIGN_OR_RETURN(x.w1, reader_.Expert(expert + "w1", width, d, fp4));
      ASSIGN_OR_RETURN(x.w2, reader_.Expert(expert + "w2", d, width, fp4));
      ASSIGN_OR_RETURN(x.w3, reader_.Expert(expert + "w3", width, d, fp4));
      m.experts.push_back(x);
    }
    ASSIGN_OR_RETURN(m.shared.w1, reader_.Quantized(prefix + "shared_experts.w1", width, d));
    ASSIGN_OR_RETURN(m.shared.w2, reader_.Quantized(prefix + "shared_experts.w2", d, width));
    ASSIGN_OR_RETURN(m.shared.w3, reader_.Quantized(prefix + "shared_experts.w3", width, d));
    return m;
  }

  absl::StatusOr<LayerWeights> Layer(const std::string& prefix, int ratio, bool hash) {
    LayerWeights layer;
    ASSIGN_OR_RETURN(layer.attn_norm, Norm(prefix + "attn_norm", config_.hidden_size));
    ASSIGN_OR_RETURN(layer.ffn_norm, Norm(prefix + "ffn_norm", config_.hidden_size));
    ASSIGN_OR_RETURN(layer.hc_attn, Site(prefix + "hc_attn"));
    ASSIGN_OR_RETURN(layer.hc_ffn, Site(prefix + "hc_ffn"));
    ASSIGN_OR_RETURN(layer.attn, Attention(prefix + "attn.", ratio));
    ASSIGN_OR_RETURN(layer.moe, Moe(prefix + "ffn.", hash));
    return layer;
  }

  absl::StatusOr<MtpWeights> Mtp(const std::string& prefix, int ratio) {
    const int64_t d = config_.hidden_size;
    MtpWeights m;
    ASSIGN_OR_RETURN(m.layer, Layer(prefix, ratio, /*hash=*/false));
    ASSIGN_OR_RETURN(m.e_proj, reader_.Quantized(prefix + "e_proj", d, d));
    ASSIGN_OR_RETURN(m.h_proj, reader_.Quantized(prefix + "h_proj", d, d));
    ASSIGN_OR_RETURN(m.enorm, Norm(prefix + "enorm", d));
    ASSIGN_OR_RETURN(m.hnorm, Norm(prefix + "hnorm", d));
    ASSIGN_OR_RETURN(m.norm, Norm(prefix + "norm", d));
    ASSIGN_OR_RETURN(m.hc_head, HeadSite(prefix + "hc_head"));
    return m;
  }

  // The first stage owns what feeds all of them, the last one the head.
  absl::StatusOr<DsparkWeights> Dspark() {
    const int64_t d = config_.hidden_size;
    const DsparkConfig& dspark = config_.dspark;
    const auto n_targets = static_cast<int64_t>(dspark.target_layers.size());
    DsparkWeights w;
    ASSIGN_OR_RETURN(w.main_proj, reader_.Quantized("mtp.0.main_proj", d, n_targets * d));
    ASSIGN_OR_RETURN(w.main_norm, Norm("mtp.0.main_norm", d));
    for (int64_t stage = 0; stage < dspark.n_stages; ++stage) {
      ASSIGN_OR_RETURN(LayerWeights weights, Layer(Cat("mtp.", stage, "."), /*ratio=*/0, /*hash=*/false));
      w.stages.push_back(std::move(weights));
    }
    const std::string last = Cat("mtp.", dspark.n_stages - 1, ".");
    ASSIGN_OR_RETURN(w.norm, Norm(last + "norm", d));
    ASSIGN_OR_RETURN(w.hc_head, HeadSite(last + "hc_head"));
    ASSIGN_OR_RETURN(w.markov_w1, reader_.Plain(last + "markov_head.markov_w1", config_.vocab_size, dspark.markov_rank,
                                                TensorRole::kEmbedding));
    ASSIGN_OR_RETURN(w.markov_w2, reader_.Plain(last + "markov_head.markov_w2", config_.vocab_size, dspark.markov_rank,
                                                TensorRole::kMatrix));
    ASSIGN_OR_RETURN(w.confidence,
                     reader_.Plain(last + "confidence_head.proj", 1, d + dspark.markov_rank, TensorRole::kMatrix));
    return w;
  }

  const ModelConfig& config_;
  TensorReader reader_;
};

}  // namespace

absl::StatusOr<BuiltWeights> BuildWeights(const ModelConfig& config, TensorSource& source, OwnedBuffers& owned) {
  return WeightsBuilder(config, source, owned).Build();
}

}  // namespace longshelf::engine
