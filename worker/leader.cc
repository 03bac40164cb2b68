#include "leader.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"
#include "worker/engine_progress.h"

namespace longshelf::worker {
namespace {

constexpr absl::Duration kBeat = absl::Seconds(1);

// Waits for the signal that ends this worker, beside the engine thread, and says meanwhile how often that has turned.
class ControlThread {
 public:
  // All must outlive it.
  ControlThread(const LeaderContext& context, WorkerNode& node)
      : context_(context), node_(node), progress_(context.config.run_dir), thread_([this] { Loop(); }) {}
  // The engine has ended, by a signal or by itself.
  ~ControlThread() {
    engine_ended_.store(true);
    context_.signals.Wake();
    thread_.join();
  }
  ControlThread(const ControlThread&) = delete;
  ControlThread& operator=(const ControlThread&) = delete;

 private:
  void Loop() {
    // An idle engine sleeps until somebody posts; one that does not turn then is hung.
    while (context_.signals.Wait(kBeat) == ShutdownSignals::Event::kTimeout) {
      progress_.Write(node_.n_turns());
      CheckTurning();
      node_.TurnEngine();
    }
    BeginDrain();
    const auto end = context_.signals.Wait(context_.config.drain_timeout);
    if (end != ShutdownSignals::Event::kWake) {
      spdlog::warn("{}; {} stream(s) are cut off",
                   end == ShutdownSignals::Event::kTimeout ? "drain timeout" : "second signal", node_.n_streams());
    }
    node_.StopEngine();
  }

  // Within a step the group's watch looks for progress; nobody else does outside of one. In beats and not in time:
  // whoever stops this process stops both.
  void CheckTurning() {
    const uint64_t n_turns = node_.n_turns();
    const bool stands_still = std::exchange(n_turns_, n_turns) == n_turns && !context_.watch.in_step();
    n_still_ = stands_still ? n_still_ + 1 : 0;
    if (n_still_ * kBeat < context_.config.step_deadline) return;
    context_.watch.Break(absl::StrCat("the engine has not turned for ",
                                      absl::FormatDuration(context_.config.step_deadline), ", outside of a step"));
  }

  void BeginDrain() {
    context_.load_state.Set(LoadState::Phase::kDraining);
    if (engine_ended_.load()) {
      context_.signals.Wake();
      return;
    }
    spdlog::info("draining; {} stream(s) are open", node_.n_streams());
    node_.Drain([&signals = context_.signals] { signals.Wake(); });
  }

  const LeaderContext& context_;
  WorkerNode& node_;
  EngineProgressWriter progress_;
  std::atomic<bool> engine_ended_{false};
  uint64_t n_turns_ = 0;  // the thread's, as last seen
  int n_still_ = 0;       // beats since then
  std::thread thread_;
};

}  // namespace

absl::Status RunLeader(const LeaderContext& context, const engine::Model& model, int64_t n_context_max,
                       std::vector<int64_t> shard_pids, engine::StepRunner& runner, NodeKv kv) {
  SpeakingStepRunner speaking(context.group_end, runner);
  NodeModel described = DescribeModel(model, n_context_max);
  described.constraints = context.constraints;
  ASSIGN_OR_RETURN(const std::unique_ptr<WorkerNode> node,
                   WorkerNode::Create(context.config, described, std::move(shard_pids), context.clock, context.metrics,
                                      speaking, std::move(kv), context.tls));
  context.group_end.SetNode(node.get());
  absl::Status ended;
  {
    const ControlThread control(context, *node);
    context.load_state.Set(LoadState::Phase::kServing);
    if (!context.config.run_dir.empty()) ended = engine::WriteReady(context.config.run_dir);
    if (ended.ok()) ended = node->RunEngine();
  }
  context.group_end.SetNode(nullptr);
  node->Shutdown(absl::Seconds(1));
  return ended;
}

}  // namespace longshelf::worker
