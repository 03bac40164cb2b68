#include "named_config.h"

#include <fmt/format.h>

#include <filesystem>

namespace longshelf::cli {
namespace {

constexpr size_t kMaxModels = 16;

}  // namespace

absl::Status CheckModelCount(size_t n_models) {
  if (n_models > 0 && n_models <= kMaxModels) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("--model: give 1 to {} models", kMaxModels));
}

absl::StatusOr<NamedConfig> ConfigNamed(const std::string& name) {
  if (name == "flash") return NamedConfig{name, engine::FlashConfig()};
  if (name == "pro") return NamedConfig{name, engine::ProConfig()};
  const absl::StatusOr<engine::ModelConfig> config = engine::LoadModelConfig(name);
  if (absl::IsNotFound(config.status())) {
    return absl::NotFoundError(
        fmt::format("--model {}: neither flash, pro, v3.2, a checkpoint directory nor a config.json ({})", name,
                    std::string(config.status().message())));
  }
  if (!config.ok()) return config.status();
  const std::filesystem::path path(name);
  const std::string leaf = path.filename().string();
  if (!leaf.empty() && leaf != "config.json") return NamedConfig{leaf, *config};
  const std::string parent = path.parent_path().filename().string();
  return NamedConfig{parent.empty() ? name : parent, *config};
}

}  // namespace longshelf::cli
