#pragma once

#include <filesystem>
#include <mutex>
#include <string>
#include <utility>

#include "engine/step_plan.h"

namespace longshelf::worker {

class WorkerNode;

// Between the moment when rank 0 learns that its group is broken and the end of its process: every open call ends with
// the words of the shard that failed. Any thread.
class GroupEnd {
 public:
  explicit GroupEnd(std::filesystem::path run_dir) : run_dir_(std::move(run_dir)) {}
  // The node that speaks; null before it is destroyed.
  void SetNode(WorkerNode* node);
  // `seen`: what this shard saw itself. Returns the words when the calls have ended, soon in any case.
  std::string Say(const std::string& seen);

 private:
  const std::filesystem::path run_dir_;
  // Guards the node while it speaks: the watch's thread does, and the engine's destroys it.
  std::mutex mutex_;
  WorkerNode* node_ = nullptr;
};

// Says of a failed step what there is to say, before the engine ends for it.
class SpeakingStepRunner final : public engine::StepRunner {
 public:
  SpeakingStepRunner(GroupEnd& end, engine::StepRunner& inner) : end_(end), inner_(inner) {}
  engine::GroupShape shape() const override { return inner_.shape(); }
  absl::StatusOr<engine::StepResult> Run(const engine::StepPlan& plan) override {
    auto result = inner_.Run(plan);
    if (!result.ok()) end_.Say(result.status().ToString());
    return result;
  }

 private:
  GroupEnd& end_;
  engine::StepRunner& inner_;
};

}  // namespace longshelf::worker
