// config.json of a checkpoint. What is accepted is within its bounds, says the same to another JSON parser, and can be
// planned with: no size that follows from it overflows.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>

#include "common/check.h"
#include "engine/model/config.h"
#include "engine/model/kv_layout.h"
#include "engine/model/plan.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

bool IsIn(int64_t value, int64_t min, int64_t max) { return value >= min && value <= max; }

void CheckBounds(const ModelConfig& c) {
  LONGSHELF_CHECK(IsIn(c.vocab_size, 2, 1 << 21) && IsIn(c.hidden_size, 32, 65536) && c.hidden_size % 32 == 0);
  LONGSHELF_CHECK(IsIn(c.n_layers, 1, 1024) && IsIn(c.n_mtp_layers, 0, 8) && IsIn(c.n_hash_layers, 0, c.n_layers));
  LONGSHELF_CHECK(IsIn(c.n_heads, 1, 1024) && c.n_heads % c.o_groups == 0);
  LONGSHELF_CHECK(IsIn(c.rope_dim, 2, c.head_dim - 1) && c.rope_dim % 2 == 0 && c.head_dim <= 4096);
  LONGSHELF_CHECK(IsIn(c.window, 1, 65536) && IsIn(c.max_positions, 1, 1 << 24));
  LONGSHELF_CHECK(IsIn(c.n_experts_per_token, 1, std::min<int64_t>(c.n_routed_experts, 64)));
  LONGSHELF_CHECK(c.compress_ratios.size() == static_cast<size_t>(c.n_layers + c.n_mtp_layers));
  LONGSHELF_CHECK(
      std::ranges::all_of(c.compress_ratios, [](int ratio) { return ratio == 0 || ratio == 4 || ratio == 128; }));
  LONGSHELF_CHECK(c.bos_token_id < c.vocab_size && c.eos_token_id < c.vocab_size);
  LONGSHELF_CHECK(c.rope_factor >= 1 && c.rope_beta_fast > c.rope_beta_slow && c.rope_theta > 1);
  LONGSHELF_CHECK(IsIn(c.dspark.n_stages, 0, 8) && c.dspark.noise_token_id < c.vocab_size);
  for (const int64_t layer : c.dspark.target_layers) LONGSHELF_CHECK(IsIn(layer, 0, c.n_layers - 1));
}

// Those fields that have one spelling.
void CheckAgreement(const ModelConfig& c, std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  LONGSHELF_CHECK(json.is_object());
  LONGSHELF_CHECK(json.at("vocab_size") == c.vocab_size && json.at("head_dim") == c.head_dim);
  LONGSHELF_CHECK(json.at("q_lora_rank") == c.q_lora_rank && json.at("o_lora_rank") == c.o_lora_rank);
}

void PlanWith(const ModelConfig& config) {
  const ParameterTable parameters = CountParameters(config);
  LONGSHELF_CHECK(parameters.main.total > 0 && parameters.main.stored_bytes > 0);
  LONGSHELF_CHECK(parameters.main.active > 0 && parameters.main.active <= parameters.main.total);
  const CostModel costs = CostModel::OfV4("fuzz", config);
  LONGSHELF_CHECK(costs.total_parameters() == parameters.main.total);
  LONGSHELF_CHECK(costs.KvBytes(config.max_positions) >= 0 && costs.ReservedBytes(config.max_positions) >= 0);
  for (const Numerics numerics : {Numerics::kNative, Numerics::kFp32}) {
    const KvLayout layout(config, numerics, {.n_draft_max = kDraftTokensLimit});
    LONGSHELF_CHECK(layout.state_bytes() > 0);
    const absl::StatusOr<KvTable> table = KvTable::Parse(layout.table().Serialize());
    LONGSHELF_CHECK(table.ok() && *table == layout.table());
  }
}

void Parse(std::string_view text) {
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) {
    LONGSHELF_CHECK(config.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  CheckBounds(*config);
  CheckAgreement(*config, text);
  constexpr int64_t kPlannedLayersMax = 128;  // tables are searched in a line
  if (config->n_layers <= kPlannedLayersMax) PlanWith(*config);
}

// Every size at its upper bound.
std::string Largest() {
  nlohmann::ordered_json json = {{"model_type", "deepseek_v4"},
                                 {"vocab_size", 1 << 21},
                                 {"hidden_size", 65536},
                                 {"num_hidden_layers", 128},
                                 {"num_nextn_predict_layers", 8},
                                 {"num_attention_heads", 1024},
                                 {"head_dim", 4096},
                                 {"qk_rope_head_dim", 64},
                                 {"q_lora_rank", 65536},
                                 {"o_groups", 1024},
                                 {"o_lora_rank", 65536},
                                 {"sliding_window", 65536},
                                 {"index_n_heads", 1024},
                                 {"index_head_dim", 1024},
                                 {"index_topk", 1 << 20},
                                 {"n_routed_experts", 4096},
                                 {"n_shared_experts", 1},
                                 {"num_experts_per_tok", 64},
                                 {"moe_intermediate_size", 1 << 20},
                                 {"routed_scaling_factor", 1e6},
                                 {"swiglu_limit", 1e9},
                                 {"hc_mult", 16},
                                 {"num_hash_layers", 3},
                                 {"rope_scaling", nullptr},
                                 {"max_position_embeddings", 1 << 24}};
  for (int layer = 0; layer < 136; ++layer) {
    json["compress_ratios"].push_back(layer >= 128 ? 0 : layer % 3 == 0 ? 128 : 4);
  }
  return json.dump();
}

std::string Content(const std::filesystem::path& path) {
  std::ostringstream out;
  out << std::ifstream(path).rdbuf();
  LONGSHELF_CHECK(!out.view().empty());
  return std::move(out).str();
}

}  // namespace
}  // namespace longshelf::engine

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using engine::Content;
  LONGSHELF_CHECK(engine::ParseModelConfig(engine::Largest()).ok());
  return {.inputs = {Content(testing::ModelPath("micro-flash") / "config.json"), engine::Largest(),
                     Content(testing::ModelPath("micro-odd") / "config.json"),
                     Content(testing::ModelPath("demo") / "config.json"),
                     Content(testing::FixturePath("configs/flash/config.json")),
                     Content(testing::FixturePath("configs/micro-dspark/config.json"))},
          .words = {"1048576",
                    "65536",
                    "4096",
                    "1024",
                    "2147483647",
                    "9223372036854775807",
                    "-1",
                    "0",
                    "1e300",
                    "null",
                    "[]",
                    "{}",
                    "\"compress_ratios\":",
                    "\"n_mtp_layers\":8,",
                    "\"dim\":64,",
                    "true",
                    "\"rope_scaling\":null,",
                    "\"partial_rotary_factor\":0.5,",
                    "\"layer_types\":[],",
                    "128,",
                    "4,"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longshelf::engine::Parse(longshelf::fuzz::FuzzInput(data, size).Rest());
  return 0;
}
