#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"

namespace longshelf::engine {

// The tensors of a checkpoint directory under their official names. Views live as long as `files`.
struct CheckpointTensors {
  std::vector<std::unique_ptr<const SafetensorsFile>> files;
  std::map<std::string, TensorView, std::less<>> tensors;
};

// Opens what model.safetensors.index.json lists, or model.safetensors, or every *.safetensors file, in that order.
// Stacked experts are given as one view per expert. INVALID_ARGUMENT: a hostile or contradictory index, a tensor that
// two files or two spellings give, a malformed file. NOT_FOUND: a listed file, or any file, is missing.
absl::StatusOr<CheckpointTensors> OpenCheckpoint(const std::filesystem::path& model_dir, const ModelConfig& config);

}  // namespace longshelf::engine
