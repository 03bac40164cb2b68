#pragma once

#include "absl/status/status.h"
#include "engine/engine_config.h"
#include "engine/request.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

// What can be said about a request on its own: INVALID_ARGUMENT names the field, the limit and what to do.
absl::Status CheckRequest(const SequenceRequest& request, const EngineConfig& config, const GroupShape& shape);

// INVALID_ARGUMENT: the configuration or the group cannot work.
absl::Status CheckEngineConfig(const EngineConfig& config, const GroupShape& shape);

}  // namespace longshelf::engine
