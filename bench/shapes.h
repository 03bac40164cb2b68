#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace longshelf::bench {

// The shapes that benchmarks run with random weights: mid, flash-thin, flash-small, pro-small; otherwise a checkpoint
// directory or a config.json.
absl::StatusOr<engine::ModelConfig> ConfigNamed(const std::string& name);

}  // namespace longshelf::bench
