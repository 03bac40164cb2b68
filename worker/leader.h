#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/shutdown.h"
#include "engine/comm/group_watch.h"
#include "engine/model/model.h"
#include "engine/step_plan.h"
#include "grammar/constraint.h"
#include "group_end.h"
#include "load_state.h"
#include "worker/node_service.h"
#include "worker/shard_config.h"

namespace longshelf::worker {

// What rank 0 got from its process.
struct LeaderContext {
  const ShardConfig& config;
  ShutdownSignals& signals;
  Clock& clock;
  Metrics& metrics;
  LoadState& load_state;
  const std::shared_ptr<net::TlsIdentity>& tls;
  engine::GroupWatch& watch;
  GroupEnd& group_end;
  const std::shared_ptr<grammar::ConstraintCache>& constraints;  // the executor's
};

// Rank 0: serves worker.proto over an engine on the calling thread, until a signal has drained it (OK) or a step failed
// (its status).
absl::Status RunLeader(const LeaderContext& context, const engine::Model& model, int64_t n_context_max,
                       std::vector<int64_t> shard_pids, engine::StepRunner& runner, NodeKv kv);

}  // namespace longshelf::worker
