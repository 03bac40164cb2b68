// The parts of config.json that come in two generations of spelling: the layer schedule and the rotary embedding.
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/status.h"
#include "config_reader.h"
#include "text.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kMaxMtpLayers = 8;
// MTP layers and DSpark stages have ratios after those of the layers.
constexpr size_t kMaxSpareRatios = 64;
constexpr int64_t kMaxDsparkStages = 8;
constexpr size_t kMaxDsparkTargets = 16;
// Positions are multiplied as fp32, which holds integers up to here.
constexpr int64_t kMaxPositions = 1 << 24;

struct CompressRates {
  int64_t csa = 4;
  int64_t hca = 128;
};

absl::StatusOr<CompressRates> ReadCompressRates(const ConfigReader& reader) {
  CompressRates rates;
  ASSIGN_OR_RETURN(const std::optional<ConfigReader> object, reader.Object("compress_rates"));
  if (object.has_value()) {
    ASSIGN_OR_RETURN(rates.csa, object->Int({"compressed_sparse_attention", "csa"}, 4, 4, rates.csa));
    ASSIGN_OR_RETURN(rates.hca, object->Int({"heavily_compressed_attention", "hca"}, 128, 128, rates.hca));
  }
  return rates;
}

absl::StatusOr<std::optional<std::vector<int64_t>>> RatiosFromLayerTypes(const ConfigReader& reader, size_t max_items) {
  ASSIGN_OR_RETURN(const CompressRates rates, ReadCompressRates(reader));
  ASSIGN_OR_RETURN(const std::optional<std::vector<std::string>> types, reader.StringList("layer_types", max_items));
  if (!types.has_value()) {
    return std::nullopt;
  }
  std::vector<int64_t> ratios;
  for (const std::string& type : *types) {
    if (type == "sliding_attention") {
      ratios.push_back(0);
    } else if (type == "compressed_sparse_attention") {
      ratios.push_back(rates.csa);
    } else if (type == "heavily_compressed_attention") {
      ratios.push_back(rates.hca);
    } else {
      return absl::InvalidArgumentError(
          Cat("layer_types[", ratios.size(), "]: ", QuotedName(type), " is no V4 attention"));
    }
  }
  return ratios;
}

absl::Status TooShort(std::string_view key, size_t n_entries, size_t n_layers) {
  return absl::InvalidArgumentError(Cat(key, ": has ", n_entries, " entries for num_hidden_layers ", n_layers));
}

absl::Status ReadRatios(const ConfigReader& reader, ModelConfig& config) {
  const auto n_layers = static_cast<size_t>(config.n_layers);
  const size_t max_items = n_layers + kMaxSpareRatios;
  ASSIGN_OR_RETURN(const std::optional<std::vector<int64_t>> listed,
                   reader.IntList("compress_ratios", max_items, 0, 128));
  ASSIGN_OR_RETURN(const std::optional<std::vector<int64_t>> typed, RatiosFromLayerTypes(reader, max_items));
  if (!listed.has_value() && !typed.has_value()) {
    return absl::InvalidArgumentError("compress_ratios: missing (and no layer_types)");
  }
  const std::vector<int64_t>& ratios = listed.has_value() ? *listed : *typed;
  if (ratios.size() < n_layers) {
    return TooShort(listed.has_value() ? "compress_ratios" : "layer_types", ratios.size(), n_layers);
  }
  if (typed.has_value() && typed->size() < n_layers) {
    return TooShort("layer_types", typed->size(), n_layers);
  }
  for (size_t i = 0; i < ratios.size(); ++i) {
    if (ratios[i] != 0 && ratios[i] != 4 && ratios[i] != 128) {
      return absl::InvalidArgumentError(Cat("compress_ratios[", i, "]: is ", ratios[i], ", must be 0, 4 or 128"));
    }
    if (i < n_layers && typed.has_value() && (*typed)[i] != ratios[i]) {
      return absl::InvalidArgumentError(
          Cat("layer_types[", i, "]: disagrees with compress_ratios[", i, "] = ", ratios[i]));
    }
    config.compress_ratios.push_back(static_cast<int>(ratios[i]));
  }
  return absl::OkStatus();
}

// The draft module of DSpark checkpoints is another one than V4's MTP, though both call their tensors mtp.*.
absl::Status ReadDspark(const ConfigReader& reader, int64_t n_listed, ModelConfig& config) {
  DsparkConfig& dspark = config.dspark;
  if (n_listed > kMaxDsparkStages) {
    return absl::InvalidArgumentError(
        Cat("compress_ratios: has ", n_listed, " entries after the layers', at most ", kMaxDsparkStages));
  }
  dspark.n_stages = n_listed;
  if (n_listed == 0) {
    ASSIGN_OR_RETURN(dspark.n_stages, reader.Int({"n_mtp_layers"}, 1, kMaxDsparkStages, std::nullopt));
  }
  ASSIGN_OR_RETURN(dspark.block_size, reader.Int({"dspark_block_size"}, 1, kDraftTokensLimit, std::nullopt));
  ASSIGN_OR_RETURN(const int64_t noise, reader.Int({"dspark_noise_token_id"}, 0, config.vocab_size - 1, std::nullopt));
  dspark.noise_token_id = static_cast<uint32_t>(noise);
  ASSIGN_OR_RETURN(dspark.markov_rank, reader.Int({"dspark_markov_rank"}, 1, 65536, std::nullopt));
  ASSIGN_OR_RETURN(const std::optional<std::vector<int64_t>> targets,
                   reader.IntList("dspark_target_layer_ids", kMaxDsparkTargets, 0, config.n_layers - 1));
  if (!targets.has_value() || targets->empty() ||
      std::adjacent_find(targets->begin(), targets->end(), std::greater_equal<>()) != targets->end()) {
    return absl::InvalidArgumentError("dspark_target_layer_ids: must be one or more layers in ascending order");
  }
  dspark.target_layers = *targets;
  return absl::OkStatus();
}

absl::Status ReadDraftModule(const ConfigReader& reader, ModelConfig& config) {
  const auto n_listed = static_cast<int64_t>(config.compress_ratios.size()) - config.n_layers;
  if (reader.Has("dspark_block_size")) {
    RETURN_IF_ERROR(ReadDspark(reader, n_listed, config));
  } else {
    ASSIGN_OR_RETURN(config.n_mtp_layers, reader.Int({"num_nextn_predict_layers", "n_mtp_layers"}, 0, kMaxMtpLayers,
                                                     std::min(n_listed, kMaxMtpLayers)));
  }
  const auto n_used = static_cast<size_t>(config.n_layers + config.n_mtp_layers);
  for (size_t i = static_cast<size_t>(config.n_layers); i < config.compress_ratios.size(); ++i) {
    if (config.compress_ratios[i] != 0) {
      return absl::InvalidArgumentError(Cat("compress_ratios[", i, "]: is ", config.compress_ratios[i],
                                            ", must be 0 for the layers of a draft module"));
    }
  }
  config.compress_ratios.resize(n_used, 0);
  return absl::OkStatus();
}

absl::Status ReadHashLayers(const ConfigReader& reader, ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<std::vector<std::string>> types,
                   reader.StringList("mlp_layer_types", static_cast<size_t>(config.n_layers) + kMaxSpareRatios));
  std::optional<int64_t> n_typed;
  if (types.has_value()) {
    if (types->size() < static_cast<size_t>(config.n_layers)) {
      return TooShort("mlp_layer_types", types->size(), static_cast<size_t>(config.n_layers));
    }
    n_typed = 0;
    for (size_t i = 0; i < types->size(); ++i) {
      const std::string& type = (*types)[i];
      if (type == "hash_moe" && static_cast<int64_t>(i) == *n_typed) {
        ++*n_typed;
      } else if (type != "moe") {
        return absl::InvalidArgumentError(Cat("mlp_layer_types[", i, "]: is ", QuotedName(type),
                                              ", must be \"hash_moe\" for the first layers, then \"moe\""));
      }
    }
  }
  ASSIGN_OR_RETURN(config.n_hash_layers, reader.Int({"num_hash_layers", "n_hash_layers"}, 0, config.n_layers, n_typed));
  if (n_typed.has_value() && *n_typed != config.n_hash_layers) {
    return absl::InvalidArgumentError(
        Cat("mlp_layer_types: has ", *n_typed, " hash layers, num_hash_layers is ", config.n_hash_layers));
  }
  return absl::OkStatus();
}

// Sets the YaRN parameters from the object that holds them in any spelling.
absl::Status ReadYarn(const ConfigReader& yarn, ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<std::string> type, yarn.String({"rope_type", "type"}));
  if (type.has_value() && *type != "yarn") {
    return absl::InvalidArgumentError(Cat(yarn.Name("type"), ": is ", QuotedName(*type), ", must be \"yarn\""));
  }
  RETURN_IF_ERROR(yarn.Double({"attention_factor"}, 1.0, 1.0, 1.0).status());
  ASSIGN_OR_RETURN(config.rope_factor, yarn.Double({"factor", "rope_factor"}, 1.0, 1e6, std::nullopt));
  ASSIGN_OR_RETURN(config.original_max_positions,
                   yarn.Int({"original_max_position_embeddings", "original_seq_len"}, 1, kMaxPositions, std::nullopt));
  ASSIGN_OR_RETURN(config.rope_beta_fast, yarn.Double({"beta_fast"}, 1e-3, 1e6, config.rope_beta_fast));
  ASSIGN_OR_RETURN(config.rope_beta_slow, yarn.Double({"beta_slow"}, 1e-3, 1e6, config.rope_beta_slow));
  if (config.rope_beta_fast <= config.rope_beta_slow) {
    return absl::InvalidArgumentError(Cat(yarn.Name("beta_fast"), ": is ", config.rope_beta_fast,
                                          ", must be above beta_slow ", config.rope_beta_slow));
  }
  return absl::OkStatus();
}

absl::Status ReadRopeDim(const ConfigReader& reader, const std::optional<ConfigReader>& main, ModelConfig& config) {
  std::optional<int64_t> from_factor;
  const ConfigReader* source = reader.Has("partial_rotary_factor") ? &reader : nullptr;
  if (source == nullptr && main.has_value() && main->Has("partial_rotary_factor")) {
    source = &*main;
  }
  if (source != nullptr) {
    ASSIGN_OR_RETURN(const double factor, source->Double({"partial_rotary_factor"}, 0.0, 1.0, std::nullopt));
    const double dim = factor * static_cast<double>(config.head_dim);
    if (std::abs(dim - std::round(dim)) > 1e-6) {
      return absl::InvalidArgumentError(Cat(source->Name("partial_rotary_factor"), ": ", factor, " of head_dim ",
                                            config.head_dim, " is not a whole number"));
    }
    from_factor = static_cast<int64_t>(std::round(dim));
  }
  ASSIGN_OR_RETURN(config.rope_dim, reader.Int({"qk_rope_head_dim", "rope_head_dim"}, 2, 4096, from_factor));
  if (from_factor.has_value() && *from_factor != config.rope_dim) {
    return absl::InvalidArgumentError(
        Cat("qk_rope_head_dim: is ", config.rope_dim, ", but partial_rotary_factor gives ", *from_factor));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadSchedule(const ConfigReader& reader, ModelConfig& config) {
  RETURN_IF_ERROR(ReadRatios(reader, config));
  RETURN_IF_ERROR(ReadDraftModule(reader, config));
  return ReadHashLayers(reader, config);
}

absl::Status ReadRope(const ConfigReader& reader, ModelConfig& config) {
  constexpr double kMinTheta = 1.0 + 1e-6;
  constexpr double kMaxTheta = 1e12;
  // transformers 5: {"main": {..}, "compress": {..}}; its flat form is the old rope_scaling with rope_theta inside.
  ASSIGN_OR_RETURN(const std::optional<ConfigReader> parameters, reader.Object("rope_parameters"));
  std::optional<ConfigReader> main;
  std::optional<ConfigReader> compress;
  if (parameters.has_value()) {
    ASSIGN_OR_RETURN(main, parameters->Object("main"));
    ASSIGN_OR_RETURN(compress, parameters->Object("compress"));
    if (!main.has_value() && !compress.has_value()) {
      main = parameters;
    }
  }
  std::optional<double> main_theta;
  if (main.has_value() && main->Has("rope_theta")) {
    ASSIGN_OR_RETURN(main_theta, main->Double({"rope_theta"}, kMinTheta, kMaxTheta, std::nullopt));
  }
  std::optional<double> compress_theta;
  if (compress.has_value() && compress->Has("rope_theta")) {
    ASSIGN_OR_RETURN(compress_theta, compress->Double({"rope_theta"}, kMinTheta, kMaxTheta, std::nullopt));
  }
  ASSIGN_OR_RETURN(config.rope_theta,
                   reader.Double({"rope_theta"}, kMinTheta, kMaxTheta, main_theta.value_or(config.rope_theta)));
  ASSIGN_OR_RETURN(config.compress_rope_theta, reader.Double({"compress_rope_theta"}, kMinTheta, kMaxTheta,
                                                             compress_theta.value_or(config.compress_rope_theta)));
  RETURN_IF_ERROR(ReadRopeDim(reader, main, config));

  ASSIGN_OR_RETURN(const std::optional<ConfigReader> scaling, reader.Object("rope_scaling"));
  if (scaling.has_value()) {
    RETURN_IF_ERROR(ReadYarn(*scaling, config));
  } else if (compress.has_value()) {
    RETURN_IF_ERROR(ReadYarn(*compress, config));
  } else if (parameters.has_value() && parameters->Has("factor")) {
    RETURN_IF_ERROR(ReadYarn(*parameters, config));
  } else if (reader.Has("rope_factor")) {
    RETURN_IF_ERROR(ReadYarn(reader, config));
  } else if (reader.IsNull("rope_scaling")) {
    config.rope_factor = 1.0;  // null is how every config of this family says "no scaling"
  } else {
    return absl::InvalidArgumentError("rope_scaling: missing (and no rope_parameters); null would mean no scaling");
  }
  const double extended = config.rope_factor * static_cast<double>(config.original_max_positions);
  ASSIGN_OR_RETURN(config.max_positions,
                   reader.Int({"max_position_embeddings"}, 1, kMaxPositions,
                              static_cast<int64_t>(std::min(extended, static_cast<double>(kMaxPositions)))));
  return absl::OkStatus();
}

}  // namespace longshelf::engine
