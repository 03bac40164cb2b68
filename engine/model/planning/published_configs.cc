#include "engine/model/config.h"

namespace longshelf::engine {
namespace {

// What both published sizes share.
ModelConfig CommonConfig() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.n_mtp_layers = 1;
  c.n_hash_layers = 3;
  c.head_dim = 512;
  c.rope_dim = 64;
  c.o_lora_rank = 1024;
  c.window = 128;
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.n_shared_experts = 1;
  c.n_experts_per_token = 6;
  c.swiglu_limit = 10.0;
  c.max_positions = 1 << 20;
  return c;
}

// Two first layers of one kind, then CSA and HCA in turn, then the sliding MTP layer.
void SetSchedule(ModelConfig& c, int first_ratio) {
  for (int64_t layer = 0; layer < c.n_layers; ++layer) {
    c.compress_ratios.push_back(layer < 2 ? first_ratio : (layer % 2 == 0 ? 4 : 128));
  }
  c.compress_ratios.push_back(0);
}

}  // namespace

ModelConfig FlashConfig() {
  ModelConfig c = CommonConfig();
  c.hidden_size = 4096;
  c.n_layers = 43;
  c.n_heads = 64;
  c.q_lora_rank = 1024;
  c.o_groups = 8;
  c.index_topk = 512;
  c.n_routed_experts = 256;
  c.moe_intermediate_size = 2048;
  c.routed_scaling_factor = 1.5;
  SetSchedule(c, 0);
  return c;
}

ModelConfig ProConfig() {
  ModelConfig c = CommonConfig();
  c.hidden_size = 7168;
  c.n_layers = 61;
  c.n_heads = 128;
  c.q_lora_rank = 1536;
  c.o_groups = 16;
  c.index_topk = 1024;
  c.n_routed_experts = 384;
  c.moe_intermediate_size = 3072;
  c.routed_scaling_factor = 2.5;
  SetSchedule(c, 128);
  return c;
}

}  // namespace longshelf::engine
