#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json MicroFlash() {
  std::ifstream in(testing::ModelPath("micro-flash") / "config.json");
  return json::parse(in);
}

// Everything but the spelling.
std::string Values(const ModelConfig& c) {
  std::string ratios;
  for (const int ratio : c.compress_ratios) {
    ratios += std::to_string(ratio) + ",";
  }
  return json{c.vocab_size,
              c.hidden_size,
              c.n_layers,
              c.n_mtp_layers,
              c.n_hash_layers,
              c.n_heads,
              c.head_dim,
              c.rope_dim,
              c.q_lora_rank,
              c.o_groups,
              c.o_lora_rank,
              c.window,
              ratios,
              c.index_n_heads,
              c.index_head_dim,
              c.index_topk,
              c.n_routed_experts,
              c.n_shared_experts,
              c.n_experts_per_token,
              c.moe_intermediate_size,
              c.routed_scaling_factor,
              c.swiglu_limit,
              c.clamp_shared_expert,
              c.hc_mult,
              c.hc_sinkhorn_iters,
              c.hc_eps,
              c.rms_norm_eps,
              c.rope_theta,
              c.compress_rope_theta,
              c.rope_factor,
              c.original_max_positions,
              c.rope_beta_fast,
              c.rope_beta_slow,
              c.max_positions,
              c.bos_token_id,
              c.eos_token_id,
              c.expert_dtype,
              c.dspark.n_stages,
              c.dspark.block_size,
              c.dspark.noise_token_id,
              c.dspark.target_layers,
              c.dspark.markov_rank}
      .dump();
}

std::string ParsedValues(const json& config) {
  const auto parsed = ParseModelConfig(config.dump());
  return parsed.ok() ? Values(*parsed) : parsed.status().ToString();
}

TEST(ModelConfig, ReadsEveryPublishedKey) {
  const auto config = ParseModelConfig(MicroFlash().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->compress_ratios, ElementsAre(0, 0, 4, 128, 4, 128, 0));
  EXPECT_EQ(config->n_layers, 6);
  EXPECT_EQ(config->n_mtp_layers, 1);
  EXPECT_EQ(config->n_hash_layers, 3);
  EXPECT_EQ(config->rope_dim, 64);
  EXPECT_EQ(config->index_topk, 32);
  EXPECT_EQ(config->n_experts_per_token, 3);
  EXPECT_EQ(config->max_positions, 1048576);
  EXPECT_EQ(config->routed_scaling_factor, 1.5);
  EXPECT_EQ(config->swiglu_limit, 10.0);
  EXPECT_EQ(config->rope_factor, 16.0);
  EXPECT_EQ(config->eos_token_id, 1U);
}

TEST(ModelConfig, TakesWholeNumbersThatAreWrittenAsFractions) {
  json config = MicroFlash();
  const std::string values = ParsedValues(config);
  config["vocab_size"] = static_cast<double>(config["vocab_size"]);
  config["max_position_embeddings"] = 1048576.0;
  for (json& ratio : config["compress_ratios"]) ratio = static_cast<double>(ratio);
  ASSERT_THAT(config.dump(), HasSubstr("1048576.0"));
  EXPECT_EQ(ParsedValues(config), values);
  config["max_position_embeddings"] = 65536.5;
  EXPECT_THAT(ParsedValues(config), HasSubstr("max_position_embeddings: is 65536.5, must be an integer from"));
  config["max_position_embeddings"] = 1e300;
  EXPECT_THAT(ParsedValues(config), HasSubstr("must be an integer from"));
  config["max_position_embeddings"] = "65536";
  EXPECT_THAT(ParsedValues(config), HasSubstr("max_position_embeddings: must be an integer from"));
  config = MicroFlash();
  config["compress_ratios"][2] = 4.5;
  EXPECT_THAT(ParsedValues(config), HasSubstr("compress_ratios[2]: must be a list"));
}

TEST(ModelConfig, ReadsTheOfficialFlashAndProConfigs) {
  const auto flash = LoadModelConfig(testing::FixturePath("configs/flash"));
  const auto pro = LoadModelConfig(testing::FixturePath("configs/pro"));
  ASSERT_TRUE(flash.ok()) << flash.status();
  ASSERT_TRUE(pro.ok()) << pro.status();
  EXPECT_EQ(Values(*flash), Values(FlashConfig()));
  EXPECT_EQ(Values(*pro), Values(ProConfig()));
  const auto count = [](const ModelConfig& config, int ratio) {
    return std::count(config.compress_ratios.begin(), config.compress_ratios.begin() + config.n_layers, ratio);
  };
  EXPECT_EQ(count(*flash, 0), 2);
  EXPECT_EQ(count(*flash, 4), 21);
  EXPECT_EQ(count(*flash, 128), 20);
  EXPECT_EQ(count(*pro, 0), 0);
  EXPECT_EQ(count(*pro, 4), 30);
  EXPECT_EQ(count(*pro, 128), 31);
  EXPECT_EQ(pro->ratio(pro->n_layers), 0);
}

TEST(ModelConfig, OfTransformersFiveHasTheSameValues) {
  const json published = MicroFlash();
  json converted = published;
  for (const char* key : {"compress_ratios", "num_hash_layers", "qk_rope_head_dim", "rope_scaling", "rope_theta",
                          "compress_rope_theta", "n_routed_experts", "moe_intermediate_size", "expert_dtype"}) {
    converted.erase(key);
  }
  converted["layer_types"] = {"sliding_attention",           "sliding_attention",
                              "compressed_sparse_attention", "heavily_compressed_attention",
                              "compressed_sparse_attention", "heavily_compressed_attention"};
  converted["compress_rates"] = {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 128}};
  converted["mlp_layer_types"] = {"hash_moe", "hash_moe", "hash_moe", "moe", "moe", "moe"};
  converted["partial_rotary_factor"] = 0.5;
  converted["num_local_experts"] = 8;
  converted["intermediate_size"] = 128;
  converted["rope_parameters"] = {{"main", {{"rope_type", "default"}, {"rope_theta", 10000.0}}},
                                  {"compress",
                                   {{"rope_type", "yarn"},
                                    {"rope_theta", 160000.0},
                                    {"factor", 16.0},
                                    {"original_max_position_embeddings", 65536},
                                    {"beta_fast", 32},
                                    {"beta_slow", 1},
                                    {"attention_factor", 1.0}}}};
  EXPECT_EQ(ParsedValues(converted), ParsedValues(published));
}

TEST(ModelConfig, OfTheReferencesInferenceDirectoryHasTheSameValues) {
  const json published = MicroFlash();
  json inference = {{"vocab_size", 512},     {"dim", 256},
                    {"n_layers", 6},         {"n_mtp_layers", 1},
                    {"n_hash_layers", 3},    {"n_heads", 8},
                    {"head_dim", 128},       {"rope_head_dim", 64},
                    {"q_lora_rank", 128},    {"o_groups", 2},
                    {"o_lora_rank", 128},    {"window_size", 128},
                    {"index_n_heads", 8},    {"index_head_dim", 128},
                    {"index_topk", 32},      {"n_routed_experts", 8},
                    {"n_shared_experts", 1}, {"n_activated_experts", 3},
                    {"moe_inter_dim", 128},  {"score_func", "sqrtsoftplus"},
                    {"route_scale", 1.5},    {"swiglu_limit", 10.0},
                    {"hc_mult", 4},          {"norm_eps", 1e-6},
                    {"rope_theta", 10000.0}, {"compress_rope_theta", 160000.0},
                    {"rope_factor", 16},     {"original_seq_len", 65536},
                    {"beta_fast", 32},       {"beta_slow", 1}};
  inference["compress_ratios"] = published["compress_ratios"];
  EXPECT_EQ(ParsedValues(inference), ParsedValues(published));
}

TEST(ModelConfig, AcceptsBothSpellingsOfTheScalingTypeAndNoScaling) {
  json config = MicroFlash();
  config["rope_scaling"].erase("type");
  config["rope_scaling"]["rope_type"] = "yarn";
  EXPECT_EQ(ParsedValues(config), ParsedValues(MicroFlash()));
  config["rope_scaling"] = nullptr;
  const auto unscaled = ParseModelConfig(config.dump());
  ASSERT_TRUE(unscaled.ok()) << unscaled.status();
  EXPECT_EQ(unscaled->rope_factor, 1.0);
}

TEST(ModelConfig, HasFourBitExpertsUnlessItSaysOtherwise) {
  json config = MicroFlash();
  config.erase("expert_dtype");
  EXPECT_EQ(ParseModelConfig(config.dump())->expert_dtype, "fp4");
  config["expert_dtype"] = "fp8";
  EXPECT_EQ(ParseModelConfig(config.dump())->expert_dtype, "fp8");
}

json MicroDspark() {
  std::ifstream in(testing::FixturePath("configs/micro-dspark") / "config.json");
  return json::parse(in);
}

TEST(ModelConfig, OfDsparkHasItsModuleAndNoMtpLayer) {
  const auto parsed = ParseModelConfig(MicroDspark().dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->n_mtp_layers, 0);
  EXPECT_EQ(parsed->compress_ratios.size(), 5U);
  EXPECT_EQ(parsed->dspark.n_stages, 3);
  EXPECT_EQ(parsed->dspark.block_size, 5);
  EXPECT_EQ(parsed->dspark.noise_token_id, 499U);
  EXPECT_THAT(parsed->dspark.target_layers, ElementsAre(2, 3, 4));
  EXPECT_EQ(parsed->dspark.markov_rank, 32);
  // As the reference's own config has it, which names the stages.
  json inference = MicroDspark();
  inference.erase("num_nextn_predict_layers");
  inference["compress_ratios"] = {0, 0, 4, 128, 4};
  inference["n_mtp_layers"] = 3;
  EXPECT_EQ(ParsedValues(inference), Values(*parsed));
}

TEST(ModelConfig, OfDsparkIsRefusedWhenItsModuleIsNotWhole) {
  const auto refusal = [](const char* key, const json& value) {
    json config = MicroDspark();
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
    const auto parsed = ParseModelConfig(config.dump());
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << key;
    return std::string(parsed.status().message());
  };
  for (const char* key : {"dspark_noise_token_id", "dspark_markov_rank", "dspark_target_layer_ids"}) {
    EXPECT_THAT(refusal(key, nullptr), HasSubstr(key));
  }
  EXPECT_THAT(refusal("dspark_block_size", 65), HasSubstr("dspark_block_size"));
  EXPECT_THAT(refusal("dspark_noise_token_id", 512), HasSubstr("dspark_noise_token_id"));
  EXPECT_THAT(refusal("dspark_target_layer_ids", {2, 5}), HasSubstr("dspark_target_layer_ids"));
  EXPECT_THAT(refusal("dspark_target_layer_ids", {3, 2}), HasSubstr("ascending"));
  EXPECT_THAT(refusal("dspark_target_layer_ids", json::array()), HasSubstr("dspark_target_layer_ids"));
  EXPECT_THAT(refusal("compress_ratios", {0, 0, 4, 128, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}), HasSubstr("compress_ratios"));
  EXPECT_THAT(refusal("compress_ratios", {0, 0, 4, 128, 4, 0, 4, 0}), HasSubstr("compress_ratios[6]"));
}

TEST(ModelConfig, TakesTheFirstOfSeveralEndTokens) {
  json config = MicroFlash();
  config["eos_token_id"] = {7, 9};
  config["bos_token_id"] = nullptr;
  const auto parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->eos_token_id, 7U);
  EXPECT_EQ(parsed->bos_token_id, 0U);
}

TEST(ModelConfig, EndsWithWhatGenerationConfigSaysFirst) {
  const auto load = [](const std::string& generation) {
    const auto dir = testing::MakeTempDir("config");
    std::ofstream(dir / "config.json") << MicroFlash().dump();
    std::ofstream(dir / "generation_config.json") << generation;
    return LoadModelConfig(dir);
  };
  EXPECT_EQ(load(R"({"eos_token_id": [7, 9]})")->eos_token_id, 7U);
  EXPECT_EQ(load(R"({"eos_token_id": null})")->eos_token_id, 1U);
  EXPECT_EQ(load("{}")->eos_token_id, 1U);
  for (const char* bad : {"[]", "{", R"({"eos_token_id": "1"})", R"({"eos_token_id": 99999999})"}) {
    EXPECT_THAT(std::string(load(bad).status().message()), HasSubstr("generation_config.json")) << bad;
  }
}

struct HostileConfig {
  const char* key;
  const char* value;  // JSON; empty removes the key
  std::vector<const char*> message;
};

void PrintTo(const HostileConfig& config, std::ostream* out) { *out << config.key << " = " << config.value; }

const HostileConfig kHostileConfigs[] = {
    {"model_type", R"("deepseek_v41")", {"model_type", "deepseek_v41", "another architecture"}},
    {"model_type", R"("deepseek_v3")", {"deepseek_v3", "another architecture"}},
    {"model_type", R"("deepseek_v32")", {"deepseek_v32", "another architecture"}},
    {"model_type", R"("llama")", {"llama", "another architecture"}},
    {"model_type", "4", {"model_type", "string"}},
    {"architectures", R"(["LlamaForCausalLM"])", {"architectures", "LlamaForCausalLM"}},
    {"vocab_size", "", {"vocab_size: missing"}},
    {"vocab_size", "0", {"vocab_size", "from 2 to 2097152"}},
    {"vocab_size", "1099511627776", {"vocab_size", "1099511627776", "from 2 to 2097152"}},
    {"vocab_size", "1000.5", {"vocab_size", "integer"}},
    {"hidden_size", "-256", {"hidden_size", "-256"}},
    {"hidden_size", "256.5", {"hidden_size", "integer"}},
    {"hidden_size", R"("256")", {"hidden_size", "integer"}},
    {"hidden_size", "264", {"hidden_size 264", "multiples of 32"}},
    {"dim", "512", {"dim: is 512", "hidden_size is 256"}},
    {"num_hidden_layers", "0", {"num_hidden_layers", "from 1 to 1024"}},
    {"num_hidden_layers", "100000", {"num_hidden_layers", "from 1 to 1024"}},
    {"num_hidden_layers", "9", {"compress_ratios", "7 entries", "9"}},
    {"num_attention_heads", "7", {"o_groups", "divide num_attention_heads 7"}},
    {"num_key_value_heads", "8", {"num_key_value_heads: is 8, must be 1"}},
    {"head_dim", "64", {"qk_rope_head_dim", "below head_dim 64"}},
    {"qk_rope_head_dim", "63", {"qk_rope_head_dim: is 63", "even"}},
    {"qk_rope_head_dim", "", {"qk_rope_head_dim: missing"}},
    {"partial_rotary_factor", "0.25", {"qk_rope_head_dim: is 64", "gives 32"}},
    {"partial_rotary_factor", "0.3", {"partial_rotary_factor", "not a whole number"}},
    {"sliding_window", "1048576", {"sliding_window", "65536"}},
    {"compress_ratios", "", {"compress_ratios: missing"}},
    {"compress_ratios", "[0, 0, 4, 8, 4, 128, 0]", {"compress_ratios[3]: is 8, must be 0, 4 or 128"}},
    {"compress_ratios", "[0, 0, 4, 128, 4, 128, 4]", {"compress_ratios[6]", "draft module"}},
    {"compress_ratios", "[0, 0, 4, -1, 4, 128, 0]", {"compress_ratios[3]"}},
    {"compress_ratios", R"("0,0,4")", {"compress_ratios", "list of integers"}},
    {"compress_ratios",
     "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,"
     "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]",
     {"compress_ratios[70]", "at most 70"}},
    {"layer_types", R"(["sliding_attention"])", {"layer_types: has 1 entries for num_hidden_layers 6"}},
    {"layer_types",
     R"(["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention"])",
     {"layer_types[2]", "disagrees"}},
    {"layer_types", R"(["full_attention"])", {"layer_types[0]", "full_attention"}},
    {"mlp_layer_types", R"(["moe", "moe", "moe", "hash_moe", "moe", "moe"])", {"mlp_layer_types[3]", "hash_moe"}},
    {"mlp_layer_types", R"(["dense", "moe", "moe", "moe", "moe", "moe"])", {"mlp_layer_types[0]", "dense"}},
    {"mlp_layer_types", R"(["moe", "moe", "moe", "moe", "moe", "moe"])", {"has 0 hash layers, num_hash_layers is 3"}},
    {"num_hash_layers", "7", {"num_hash_layers", "from 0 to 6"}},
    {"num_nextn_predict_layers", "9", {"num_nextn_predict_layers", "from 0 to 8"}},
    {"n_routed_experts", "8589934592", {"n_routed_experts", "4096"}},
    {"num_local_experts", "16", {"num_local_experts: is 16", "n_routed_experts is 8"}},
    {"num_experts_per_tok", "9", {"num_experts_per_tok: is 9", "n_routed_experts 8"}},
    {"n_shared_experts", "2", {"n_shared_experts: is 2"}},
    {"moe_intermediate_size", "100", {"moe_intermediate_size 100", "multiples of 32"}},
    {"index_head_dim", "96", {"index_head_dim: is 96", "power of two"}},
    {"index_head_dim", "32", {"index_head_dim: is 32", "at least qk_rope_head_dim 64"}},
    {"index_topk", "", {"index_topk", "needed"}},
    {"index_topk", "0", {"index_topk", "from 1"}},
    {"hc_mult", "1000", {"hc_mult", "from 1 to 16"}},
    {"hc_sinkhorn_iters", "1073741824", {"hc_sinkhorn_iters", "1000"}},
    {"rms_norm_eps", "-1e-6", {"rms_norm_eps"}},
    {"routed_scaling_factor", "0", {"routed_scaling_factor"}},
    {"swiglu_limit", "-1.0", {"swiglu_limit"}},
    {"swiglu_limit", "", {"swiglu_limit: missing"}},
    {"scoring_func", R"("sigmoid")", {"scoring_func", "sigmoid", "sqrtsoftplus"}},
    {"topk_method", R"("greedy")", {"topk_method", "noaux_tc"}},
    {"norm_topk_prob", "false", {"norm_topk_prob: must be true"}},
    {"hidden_act", R"("gelu")", {"hidden_act", "gelu"}},
    {"attention_bias", "true", {"attention_bias: must be false"}},
    {"tie_word_embeddings", "true", {"tie_word_embeddings: must be false"}},
    {"expert_dtype", R"("int4")", {"expert_dtype", "int4"}},
    {"quantization_config", R"({"quant_method": "gptq"})", {"quantization_config.quant_method", "gptq"}},
    {"quantization_config", R"({"weight_block_size": [64, 128]})", {"weight_block_size", "[64, 128]"}},
    {"quantization_config", R"({"scale_fmt": "float"})", {"quantization_config.scale_fmt"}},
    {"quantization_config", "8", {"quantization_config", "object"}},
    {"rope_theta", "0", {"rope_theta"}},
    {"rope_theta", "1e300", {"rope_theta"}},
    {"rope_scaling", "", {"rope_scaling: missing"}},
    {"rope_scaling", R"({"type": "linear", "factor": 2})", {"rope_scaling.type", "linear"}},
    {"rope_scaling", R"({"type": "yarn"})", {"rope_scaling.factor: missing"}},
    {"rope_scaling",
     R"({"type": "yarn", "factor": 0.5, "original_max_position_embeddings": 65536})",
     {"rope_scaling.factor: is 0.5"}},
    {"rope_scaling",
     R"({"factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 1, "beta_slow": 2})",
     {"beta_fast", "above beta_slow"}},
    {"rope_scaling",
     R"({"factor": 16, "original_max_position_embeddings": 65536, "attention_factor": 1.2})",
     {"attention_factor"}},
    {"max_position_embeddings", "4294967296", {"max_position_embeddings", "16777216"}},
    {"bos_token_id", "512", {"bos_token_id: is 512", "511"}},
    {"eos_token_id", "-1", {"eos_token_id"}},
    {"eos_token_id", "[1, 99999]", {"eos_token_id[1]"}},
};

class HostileConfigValue : public ::testing::TestWithParam<HostileConfig> {};

TEST_P(HostileConfigValue, IsRefusedWithKeyAndReason) {
  json config = MicroFlash();
  config.erase(GetParam().key);
  if (*GetParam().value != '\0') {
    config[GetParam().key] = json::parse(GetParam().value);
  }
  const auto parsed = ParseModelConfig(config.dump());
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : GetParam().message) {
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, HostileConfigValue, ::testing::ValuesIn(kHostileConfigs));

TEST(ModelConfig, IsRefusedWhenItIsNotOneJsonObject) {
  const std::string good = MicroFlash().dump();
  const std::vector<std::pair<std::string, std::string>> texts = {
      {"", "empty"},
      {"[]", "not a JSON object"},
      {"{", "not valid JSON"},
      {good + "x", "not valid JSON"},
      {"{\"hidden_size\":1}", "model_type: missing"},
      {"{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}", "nested deeper than 16"},
      {"{\"model_type\":\"deepseek_v4\",\"model_type\":\"llama\"}", "\"model_type\" is given twice"},
      {"{\"\xff\":1}", "UTF-8"},
      {std::string((1 << 20) + 1, ' '), "at most 1048576"},
  };
  for (const auto& [text, reason] : texts) {
    const auto parsed = ParseModelConfig(text);
    ASSERT_FALSE(parsed.ok()) << text.substr(0, 80);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(reason));
  }
}

TEST(ModelConfig, OfAMissingDirectoryOrFileIsNotFoundAndNamesIt) {
  const auto missing = LoadModelConfig("/nonexistent-model");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nonexistent-model"));
  const auto empty = LoadModelConfig(testing::MakeTempDir("empty"));
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("config.json"));
}

}  // namespace
}  // namespace longshelf::engine
