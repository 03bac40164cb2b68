#include <array>

#include "engine/model/plan.h"

namespace longshelf::engine {
namespace {

enum Part : size_t {
  kEmbedding,
  kHead,
  kAttention,
  kCompressors,
  kIndexers,
  kGates,
  kRoutedExperts,
  kSharedExperts,
  kHyperConnections,
  kNormsAndBiases,
  kPartCount,
};

constexpr std::array<std::string_view, kPartCount> kPartNames = {
    "embedding", "output head",    "attention projections", "compressors",       "indexers",
    "gates",     "routed experts", "shared experts",        "hyper-connections", "norms, biases, sinks"};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Fp8Bytes(int64_t rows, int64_t cols) { return rows * cols + CeilDiv(rows, 128) * CeilDiv(cols, 128); }
int64_t Fp4Bytes(int64_t rows, int64_t cols) { return rows * cols / 2 + rows * cols / 32; }

// Adds up the tensor table of the spec, part by part.
class Counter {
 public:
  explicit Counter(const ModelConfig& config) : c_(config) {
    for (size_t i = 0; i < kPartCount; ++i) {
      parts_[i].name = kPartNames[i];
    }
  }

  const std::array<ParameterPart, kPartCount>& parts() const { return parts_; }

  ParameterPart Sum(std::string_view name) const {
    ParameterPart sum;
    sum.name = name;
    for (const ParameterPart& part : parts_) {
      sum.total += part.total;
      sum.active += part.active;
      sum.stored_bytes += part.stored_bytes;
    }
    return sum;
  }

  void TopLevel() {
    Add(kEmbedding, c_.vocab_size * c_.hidden_size, 0, 2);
    Add(kHead, c_.vocab_size * c_.hidden_size, c_.vocab_size * c_.hidden_size, 2);
    Vector(c_.hidden_size, 2);
    HeadSite();
  }

  void Layer(int ratio, bool hash) {
    Vector(2 * c_.hidden_size, 2);
    const int64_t hc = c_.hc_mult;
    const int64_t n_out = (2 + hc) * hc;
    Add(kHyperConnections, 2 * n_out * hc * c_.hidden_size, 2 * n_out * hc * c_.hidden_size, 4);
    Vector(2 * (n_out + 3), 4);
    Attention(ratio);
    Moe(hash);
  }

  void MtpExtras() {
    Fp8(kAttention, c_.hidden_size, 2 * c_.hidden_size);
    Vector(3 * c_.hidden_size, 2);
    HeadSite();
  }

  void DsparkExtras() {
    const auto n_targets = static_cast<int64_t>(c_.dspark.target_layers.size());
    const int64_t rank = c_.dspark.markov_rank;
    Fp8(kAttention, c_.hidden_size, n_targets * c_.hidden_size);
    Vector(2 * c_.hidden_size, 2);
    HeadSite();
    Add(kEmbedding, c_.vocab_size * rank, 0, 2);
    Add(kHead, c_.vocab_size * rank, c_.vocab_size * rank, 2);
    Vector(c_.hidden_size + rank, 2);
  }

 private:
  void Add(Part part, int64_t total, int64_t active, int64_t bytes_each) {
    parts_[part].total += total;
    parts_[part].active += active;
    parts_[part].stored_bytes += total * bytes_each;
  }

  void Vector(int64_t n, int64_t bytes_each) { Add(kNormsAndBiases, n, 0, bytes_each); }

  void Fp8(Part part, int64_t rows, int64_t cols) {
    parts_[part].total += rows * cols;
    parts_[part].active += rows * cols;
    parts_[part].stored_bytes += Fp8Bytes(rows, cols);
  }

  void HeadSite() {
    const int64_t n = c_.hc_mult * c_.hc_mult * c_.hidden_size;
    Add(kHyperConnections, n, n, 4);
    Vector(c_.hc_mult + 1, 4);
  }

  void Compressor(Part part, int ratio, int64_t dim) {
    const int64_t width = ratio == 4 ? 2 * dim : dim;
    Add(part, 2 * width * c_.hidden_size, 2 * width * c_.hidden_size, 2);
    Add(part, ratio * width, 0, 4);
    Vector(dim, 2);
  }

  void Attention(int ratio) {
    const int64_t heads = c_.n_heads * c_.head_dim;
    const int64_t out = c_.o_groups * c_.o_lora_rank;
    Fp8(kAttention, c_.q_lora_rank, c_.hidden_size);
    Fp8(kAttention, heads, c_.q_lora_rank);
    Fp8(kAttention, c_.head_dim, c_.hidden_size);
    Fp8(kAttention, out, heads / c_.o_groups);
    Fp8(kAttention, c_.hidden_size, out);
    Vector(c_.q_lora_rank + c_.head_dim, 2);
    Vector(c_.n_heads, 4);
    if (ratio != 0) {
      Compressor(kCompressors, ratio, c_.head_dim);
    }
    if (ratio == 4) {
      Fp8(kIndexers, c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank);
      Add(kIndexers, c_.index_n_heads * c_.hidden_size, c_.index_n_heads * c_.hidden_size, 2);
      Compressor(kIndexers, 4, c_.index_head_dim);
    }
  }

  void Moe(bool hash) {
    const int64_t d = c_.hidden_size;
    const int64_t width = c_.moe_intermediate_size;
    const int64_t expert = 3 * width * d;
    Add(kGates, c_.n_routed_experts * d, c_.n_routed_experts * d, 2);
    if (hash) {
      parts_[kGates].stored_bytes += c_.vocab_size * c_.n_experts_per_token * 8;
    } else {
      Vector(c_.n_routed_experts, 4);
    }
    ParameterPart& routed = parts_[kRoutedExperts];
    routed.total += c_.n_routed_experts * expert;
    routed.active += c_.n_experts_per_token * expert;
    const bool fp4 = c_.expert_dtype == "fp4";
    const int64_t up_bytes = fp4 ? Fp4Bytes(width, d) : Fp8Bytes(width, d);
    const int64_t down_bytes = fp4 ? Fp4Bytes(d, width) : Fp8Bytes(d, width);
    routed.stored_bytes += c_.n_routed_experts * (2 * up_bytes + down_bytes);
    Fp8(kSharedExperts, width, d);
    Fp8(kSharedExperts, width, d);
    Fp8(kSharedExperts, d, width);
  }

  const ModelConfig& c_;
  std::array<ParameterPart, kPartCount> parts_;
};

}  // namespace

ParameterTable CountParameters(const ModelConfig& config) {
  Counter main(config);
  main.TopLevel();
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    main.Layer(config.ratio(layer), config.is_hash_layer(layer));
  }
  Counter mtp(config);
  for (int64_t i = 0; i < config.n_mtp_layers; ++i) {
    mtp.Layer(config.ratio(config.n_layers + i), /*hash=*/false);
    mtp.MtpExtras();
  }
  for (int64_t i = 0; i < config.dspark.n_stages; ++i) {
    mtp.Layer(/*ratio=*/0, /*hash=*/false);
  }
  if (config.dspark.n_stages > 0) {
    mtp.DsparkExtras();
  }
  ParameterTable table;
  table.parts.assign(main.parts().begin(), main.parts().end());
  table.main = main.Sum("main model");
  table.draft_module = mtp.Sum(config.dspark.n_stages > 0 ? "DSpark" : "MTP");
  return table;
}

}  // namespace longshelf::engine
