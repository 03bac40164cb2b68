#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "json_fields.h"

namespace longshelf::engine {

// Typed, bounded access to one object of config.json. A key list is one value under several spellings: any may be
// given, and if several are, they must agree. null counts as absent. Errors are INVALID_ARGUMENT and name the key, the
// value and the bound.
class ConfigReader {
 public:
  using Keys = std::vector<std::string_view>;
  ConfigReader(JsonFields fields, std::string prefix) : fields_(std::move(fields)), prefix_(std::move(prefix)) {}

  bool Has(std::string_view key) const;     // present and not null
  bool IsNull(std::string_view key) const;  // present and null

  // Without a fallback the value is required.
  absl::StatusOr<int64_t> Int(const Keys& keys, int64_t min, int64_t max, std::optional<int64_t> fallback) const;
  absl::StatusOr<double> Double(const Keys& keys, double min, double max, std::optional<double> fallback) const;
  // An integer, or a list of integers of which the first counts.
  absl::StatusOr<int64_t> FirstInt(std::string_view key, int64_t min, int64_t max, int64_t fallback) const;

  absl::StatusOr<std::optional<std::string>> String(const Keys& keys) const;
  absl::StatusOr<std::optional<std::vector<std::string>>> StringList(std::string_view key, size_t max_items) const;
  absl::StatusOr<std::optional<std::vector<int64_t>>> IntList(std::string_view key, size_t max_items, int64_t min,
                                                              int64_t max) const;
  absl::StatusOr<std::optional<ConfigReader>> Object(std::string_view key) const;

  // OK when absent.
  absl::Status ExpectString(const Keys& keys, std::string_view expected) const;
  absl::Status ExpectBool(std::string_view key, bool expected) const;

  std::string Name(std::string_view key) const { return prefix_ + std::string(key); }

 private:
  template <typename T>
  absl::StatusOr<T> Number(const Keys& keys, T min, T max, std::optional<T> fallback, std::string_view kind) const;

  JsonFields fields_;
  std::string prefix_;  // "rope_scaling." for messages
};

// num_hidden_layers is set already. Sets compress_ratios (or from layer_types), n_hash_layers (or from mlp_layer_types)
// and the draft module: n_mtp_layers or dspark.
absl::Status ReadSchedule(const ConfigReader& reader, ModelConfig& config);

// head_dim is set already. Sets every rope_* field, rope_dim, original_max_positions and max_positions.
absl::Status ReadRope(const ConfigReader& reader, ModelConfig& config);

}  // namespace longshelf::engine
