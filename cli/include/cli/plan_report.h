#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/group_plan.h"
#include "engine/model/plan.h"

namespace longshelf::cli {

struct PlanRequest {
  std::vector<std::string> models;  // "flash", "pro", "v3.2", a checkpoint directory or a config.json
  std::vector<int64_t> contexts;    // tokens
  int64_t memory_bytes = 0;         // for KV
};

// "1048576", "128K" or "1M" (binary), from 1 to 16777216.
absl::StatusOr<int64_t> ParseContext(std::string_view text);

// What each model costs at each context, with its ratios to DeepSeek-V3.2.
absl::StatusOr<std::string> PlanTable(const PlanRequest& request);
absl::StatusOr<std::string> PlanJson(const PlanRequest& request);

// Each of `models` (not v3.2) on the same group, simulated.
absl::StatusOr<std::string> GroupPlanTable(const std::vector<std::string>& models, const GroupPlanRequest& request);
absl::StatusOr<std::string> GroupPlanJson(const std::vector<std::string>& models, const GroupPlanRequest& request);

}  // namespace longshelf::cli
