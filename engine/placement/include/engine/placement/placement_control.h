#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/communicator.h"
#include "engine/comm/expert_placement.h"
#include "engine/comm/expert_transport.h"
#include "engine/placement/expert_loads.h"
#include "engine/placement/mapped_experts.h"

namespace longshelf::engine {

struct PlacementOptions {
  // Steps between two looks at the loads, and how many steps before a look are counted.
  uint64_t interval_steps = 3000;
  uint64_t window_steps = 1000;
  uint32_t n_redundant = 0;  // copies of experts on every layer beyond one of each
  // A placement is taken when the slowest shards of all layers together would compute so much less.
  double gain_min = 1.05;
  // Says what happened, in words; the same on every shard. May be null.
  std::function<void(const std::string&)> say;
};

// What there was to see at the last look.
struct PlacementReport {
  uint64_t epoch = 0;
  uint64_t n_moved = 0;    // experts that this shard fetched
  uint64_t n_refused = 0;  // placements given up, as some shard found wrong bytes
  // Of the counted steps, when experts lie as they do now. Mean of shards by the largest, 1 is even; by layer.
  std::vector<double> balance[kStepPhases];
  std::vector<double> rank_rows;  // all layers and phases
};

// Moves experts to where they spread the work, while steps go on. Every shard of a group has one, and all of them
// decide the same from the same counts:
//
//   every interval_steps  counts are added up over the shards, a placement planned; it must pay
//   until it is there     each shard fetches what it does not hold, one expert in a step, in the background
//   then                  the leader announces the next epoch with a plan, and all switch before that step
//   an epoch later        what a shard no longer holds is let go
//
// Results do not depend on any of it. Engine thread; report(): any thread.
class PlacementControl {
 public:
  // All must outlive this; `transport` goes by an even placement until then.
  PlacementControl(Communicator& communicator, ExpertTransport& transport, ExpertMover& mover, uint32_t n_layers,
                   uint32_t n_experts, PlacementOptions options);
  ~PlacementControl();

  // What the model is to use: counts what passes through.
  ExpertTransport& transport();

  // Leader: with the next plan.
  uint64_t epoch_to_announce() const { return is_ready_ ? epoch_ + 1 : epoch_; }
  // Before the step. INTERNAL: the leader announced an epoch that this shard is not ready for; both are named.
  absl::Status BeginStep(StepPhase phase, uint64_t announced_epoch);
  // After it; collective.
  absl::Status EndStep(uint64_t seq);

  uint64_t epoch() const { return epoch_; }
  const ExpertPlacement& placement() const { return placement_; }
  PlacementReport report() const;

 private:
  class CountingTransport;
  absl::Status Consider();
  absl::Status AskWhetherAllAreThere();
  void Switch();
  void Report(const ExpertLoads& all);
  void Say(const std::string& text) const;

  Communicator& communicator_;
  ExpertMover& mover_;
  const PlacementOptions options_;
  ExpertLoads loads_;  // of this shard's tokens
  std::unique_ptr<CountingTransport> transport_;
  ExpertPlacement placement_;
  std::unique_ptr<const ExpertPlacement> next_;  // being fetched, or ready
  uint64_t epoch_ = 0;
  bool is_ready_ = false;
  size_t n_to_fetch_ = 0;
  std::vector<ExpertId> retired_;  // held until the last switch
  mutable std::mutex mutex_;       // guards report_, which the thread of metrics reads
  PlacementReport report_;
};

}  // namespace longshelf::engine
