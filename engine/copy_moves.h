#pragma once

#include "absl/status/status.h"
#include "engine/comm/communicator.h"
#include "engine/kv_copies.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

// Sends and receives what `plan` moves from and to this shard, each copy once, from the shard that has it to the one
// that needs it. Every shard calls it before it executes the plan. INTERNAL: this shard does not have what it is to
// send; otherwise the communicator's.
absl::Status MoveCopies(const StepPlan& plan, Communicator& communicator, KvCopies& copies);

}  // namespace longshelf::engine
