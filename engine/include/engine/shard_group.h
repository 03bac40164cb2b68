#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/comm/doorbell.h"
#include "engine/comm/expert_transport.h"
#include "engine/comm/group_watch.h"
#include "engine/comm/host_links.h"
#include "engine/executor.h"
#include "engine/microbatches.h"
#include "engine/placement/placement_control.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

class Model;

// Life of a shard group (R > 1), in every process, on its main thread (which is the engine thread):
//
//   session   = MpiSession::Start(...)          first of all; before weights, before any other thread
//   weights, an ExpertTransport, Model, Executor
//   AgreeOnIdentity(communicator, GroupIdentity(...))    or the group refuses to form
//   rank 0:  ShardGroupRunner runner; Engine(..., runner, ...).Run(); runner.Shutdown()
//   others:  RunFollower(...)
//   session->Finish(...)                        only when all of that was OK; else return and exit non-zero at once
//
// A process that cannot go on must exit: its peers notice in milliseconds and follow.
struct ShardGroup {
  Communicator& communicator;
  Doorbell& doorbell;
  ExpertTransport& transport;
  GroupWatch* watch = nullptr;  // null: progress is not watched (tests)
  uint64_t generation = 0;
  HostLinks* links = nullptr;                      // the leader's, to other hosts; null: there are none
  PlacementControl* placement = nullptr;           // null: experts stay where they are; else the transport is its
  Microbatches microbatches = Microbatches::kOne;  // of large steps; the leader's choice
};

// What all shards of a group must have in common, so that any of them computes the same bits.
std::vector<IdentityField> GroupIdentity(const Model& model, const GroupShape& shape, int64_t n_context_max);

// The leader's side of every step: rings, broadcasts the plan, executes rank 0's part, gathers and merges the results.
// Between steps the other shards sleep; nothing has to be sent when the engine idles. Engine thread only.
class ShardGroupRunner final : public StepRunner {
 public:
  ShardGroupRunner(const ShardGroup& group, Executor& executor)
      : group_(group), executor_(executor), microbatches_(group.microbatches, {executor.shape(1).position_cost}) {}

  GroupShape shape() const override { return executor_.shape(group_.communicator.size()); }
  // After any error the group is out of step and must end.
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override;
  // Sends the others home; their RunFollower returns OK. Once; nothing may be run after it.
  absl::Status Shutdown();

 private:
  absl::Status Announce(const StepPlan& plan, uint64_t epoch, int n_microbatches);

  ShardGroup group_;
  Executor& executor_;
  MicrobatchChoice microbatches_;
  uint64_t seq_ = 0;
  bool shut_down_ = false;
};

// Every other shard: executes what the leader announces until it says shutdown. INTERNAL: this shard is out of step
// with the leader, both values named.
absl::Status RunFollower(const ShardGroup& group, Executor& executor);

}  // namespace longshelf::engine
