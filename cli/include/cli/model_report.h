#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace longshelf::cli {

// What is known of a checkpoint besides its config.
struct CheckpointSummary {
  bool has_tensors = false;  // false: only config.json is there
  bool has_draft_module = false;
  std::vector<std::string> unused_tensors;  // tolerated, not loaded
  std::string digest;                       // hex, empty when it was not asked for
};

// INVALID_ARGUMENT: the tensors do not fit the config, by name and reason.
absl::StatusOr<CheckpointSummary> SummarizeCheckpoint(const std::filesystem::path& model_dir, bool with_digest);

std::string ModelInfoText(const std::string& title, const engine::ModelConfig& config,
                          const CheckpointSummary& checkpoint);
std::string ModelInfoJson(const engine::ModelConfig& config, const CheckpointSummary& checkpoint);

}  // namespace longshelf::cli
