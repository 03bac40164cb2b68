#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace longshelf::cli {

struct NamedConfig {
  std::string name;
  engine::ModelConfig config;
};

// "flash", "pro", a checkpoint directory or a config.json. NOT_FOUND: none of these.
absl::StatusOr<NamedConfig> ConfigNamed(const std::string& name);
// INVALID_ARGUMENT: none, or too many for one table.
absl::Status CheckModelCount(size_t n_models);

}  // namespace longshelf::cli
