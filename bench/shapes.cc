#include "shapes.h"

namespace longshelf::bench {
namespace {

using engine::ModelConfig;

// Few layers and experts of the published widths: every kernel sees its real shapes, and the weights fit a laptop.
ModelConfig Small(ModelConfig config) {
  config.n_layers = 4;
  config.n_mtp_layers = 0;
  config.n_hash_layers = 1;
  config.compress_ratios = {0, 4, 128, 4};
  config.n_routed_experts = 16;
  config.vocab_size = 8192;
  return config;
}

// Every width of a layer as published, all three kinds of layer; fewer layers and experts, so that the weights take
// about 10 GB.
ModelConfig FlashThin() {
  ModelConfig config = engine::FlashConfig();
  config.n_layers = 8;
  config.n_mtp_layers = 0;
  config.n_hash_layers = 2;
  config.compress_ratios = {0, 0, 4, 128, 4, 128, 4, 128};
  config.n_routed_experts = 64;
  return config;
}

// A model of 1162 M parameters, 232 M active, that other programs run too (peers.md): wide enough to be bound by memory
// in decode, small enough to be run at 64K tokens by all of them.
ModelConfig Mid() {
  ModelConfig config = engine::FlashConfig();
  config.vocab_size = 16384;
  config.hidden_size = 1024;
  config.n_layers = 10;
  config.n_mtp_layers = 0;
  config.n_hash_layers = 2;
  config.compress_ratios = {0, 0, 4, 128, 4, 128, 4, 128, 4, 128};
  config.n_heads = 16;
  config.q_lora_rank = 512;
  config.o_groups = 4;
  config.o_lora_rank = 256;
  config.index_n_heads = 16;
  config.n_routed_experts = 64;
  config.moe_intermediate_size = 512;
  return config;
}

}  // namespace

absl::StatusOr<engine::ModelConfig> ConfigNamed(const std::string& name) {
  if (name == "mid") return Mid();
  if (name == "flash-thin") return FlashThin();
  if (name == "flash-small") return Small(engine::FlashConfig());
  if (name == "pro-small") return Small(engine::ProConfig());
  return engine::LoadModelConfig(name);
}

}  // namespace longshelf::bench
