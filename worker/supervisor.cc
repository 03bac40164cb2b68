#include "worker/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/public_text.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"
#include "generation.h"
#include "group_launch.h"
#include "last_words.h"
#include "liveness.h"
#include "process_tree.h"
#include "restart_policy.h"
#include "worker/engine_progress.h"

namespace longshelf::worker {
namespace {

// After the shard's own drain deadline, for leaving the group.
constexpr absl::Duration kDrainGrace = absl::Seconds(8);
// For the shards of a broken group to tell their callers why.
constexpr absl::Duration kLastWordsGrace = absl::Milliseconds(700);
// Whatever else happens, the loop turns as often.
constexpr absl::Duration kBeat = absl::Seconds(5);

enum class Phase { kStarting, kServing, kDraining, kWaiting, kStopped };
// How a generation ended.
enum class End { kBroken, kDrained, kForced };

}  // namespace

// Owner thread: main, but for `phase`, `generation`, `liveness` and `last_words`.
struct Supervisor::Impl {
  const SupervisorConfig config;
  Clock& clock;
  ShutdownSignals& signals;
  std::unique_ptr<GroupDirs> dirs;
  RestartPolicy policy;
  const bool can_read_siblings;
  prometheus::Counter& n_starts;
  prometheus::Counter& n_broken;
  prometheus::Gauge& serving;
  prometheus::Gauge& generation_gauge;
  std::atomic<Phase> phase{Phase::kStarting};
  std::atomic<uint64_t> generation{0};
  Liveness liveness{clock.Now()};
  // Guards the words, which probes read.
  mutable std::mutex last_words_mutex;
  std::string last_words;  // of the generation that ended last

  Impl(const SupervisorConfig& supervisor_config, Clock& the_clock, ShutdownSignals& the_signals, Metrics& metrics)
      : config(supervisor_config),
        clock(the_clock),
        signals(the_signals),
        policy({.delay_min = config.restart_delay_min,
                .delay_max = config.restart_delay_max,
                .failed_starts_max = config.failed_starts_max}),
        can_read_siblings(CanReadSiblings()),
        n_starts(metrics.AddCounter("longshelf_worker_group_starts_total", "Shard groups started.")),
        n_broken(metrics.AddCounter("longshelf_worker_group_failures_total", "Shard groups that ended by themselves.")),
        serving(metrics.AddGauge("longshelf_worker_group_ready", "1 while the shard group serves.")),
        generation_gauge(
            metrics.AddGauge("longshelf_worker_group_generation", "Number of the current group's start.")) {}

  void SetPhase(Phase next) {
    phase.store(next);
    serving.Set(next == Phase::kServing ? 1 : 0);
    if (config.service_manager != nullptr) config.service_manager->Tell(ReadinessNow());
  }
  Readiness ReadinessNow() const;
  // How long this thread may wait without a sign of life.
  absl::Duration WaitAtMost() const {
    return config.service_manager == nullptr ? kBeat : std::min(kBeat, config.service_manager->beat());
  }

  // One generation and where it stands.
  struct Group {
    std::unique_ptr<Generation> processes;
    int n_shards = 1;  // on all hosts
    absl::Time started;
    std::optional<absl::Time> ready_at;
    std::optional<absl::Time> drain_deadline;
    std::optional<uint64_t> engine_turns;  // as last seen
    std::string ended;                     // who did first: "shard 1"

    uint64_t number() const { return processes->number(); }
  };

  absl::StatusOr<Group> Start();
  End Watch(Group& group);
  std::optional<End> OnSignal(Group& group);
  void CheckReady(Group& group);
  absl::Time Deadline(const Group& group) const;
  End OnDeadline(const Group& group) const;
  void TearDown(Group& group);
  bool WaitBeforeRestart(absl::Duration delay);
  void SayAlive(Group* group);
};

// Before it serves and while it drains, the group has a deadline of ours.
void Supervisor::Impl::SayAlive(Group* group) {
  liveness.LoopTurns(clock.Now());
  const bool serves = group != nullptr && phase.load() == Phase::kServing;
  const auto turns = serves ? ReadEngineProgress(group->processes->dirs().run) : std::nullopt;
  liveness.EngineTurns(serves, turns, clock.Now());
  if (config.service_manager == nullptr) return;
  if (serves && std::exchange(group->engine_turns, turns) == turns) return;
  config.service_manager->Alive();
}

absl::StatusOr<Supervisor::Impl::Group> Supervisor::Impl::Start() {
  Group group;
  const uint64_t number = generation.fetch_add(1) + 1;
  generation_gauge.Set(static_cast<double>(number));
  n_starts.Increment();
  SetPhase(Phase::kStarting);
  group.started = clock.Now();
  ASSIGN_OR_RETURN(const Placement placement, FindPlacement(config));
  const size_t n_hosts = std::max<size_t>(placement.names.size(), 1);
  group.n_shards = placement.n_shards;
  const int n_here = group.n_shards / static_cast<int>(n_hosts);
  ASSIGN_OR_RETURN(group.processes, Generation::Start(*dirs, number, n_here, [&](const GenerationDirs& own) {
                     return PrepareLaunch(config, placement, own, number, can_read_siblings);
                   }));
  spdlog::info("generation {}: started {} shard(s), process {}{}", number, group.n_shards, group.processes->session(),
               n_hosts > 1 ? absl::StrCat(" on ", absl::StrJoin(placement.names, ", ")) : "");
  if (group.n_shards > 1) {
    spdlog::info("mpirun listens on all interfaces, TCP {}: let only hosts of the group reach it",
                 placement.daemon_port);
  }
  return group;
}

void Supervisor::Impl::CheckReady(Group& group) {
  if (group.ready_at.has_value() || !group.processes->is_ready()) return;
  group.ready_at = clock.Now();
  if (phase.load() == Phase::kStarting) SetPhase(Phase::kServing);
  spdlog::info("generation {}: serving after {}", group.number(),
               absl::FormatDuration(absl::Trunc(*group.ready_at - group.started, absl::Milliseconds(1))));
}

// The first signal asks rank 0 to drain; a second one, or one before there is anything to drain, ends it now.
std::optional<End> Supervisor::Impl::OnSignal(Group& group) {
  const bool first = phase.load() != Phase::kDraining;
  const auto& ranks = group.processes->ranks();
  const auto leader = ranks.find(0);
  if (!first || !group.ready_at.has_value() || leader == ranks.end() || !engine::IsAlive(leader->second)) {
    return group.ready_at.has_value() ? End::kForced : End::kDrained;
  }
  spdlog::info("generation {}: draining", group.number());
  if (config.service_manager != nullptr) config.service_manager->Stopping();
  SetPhase(Phase::kDraining);
  group.drain_deadline = clock.Now() + config.shard.drain_timeout + kDrainGrace;
  kill(leader->second.pid, SIGTERM);
  return std::nullopt;
}

absl::Time Supervisor::Impl::Deadline(const Group& group) const {
  if (group.drain_deadline.has_value()) return *group.drain_deadline;
  return group.ready_at.has_value() ? absl::InfiniteFuture() : group.started + config.start_timeout;
}

End Supervisor::Impl::OnDeadline(const Group& group) const {
  if (group.drain_deadline.has_value()) {
    spdlog::warn("generation {}: not drained in time", group.number());
    return End::kForced;
  }
  spdlog::error("generation {}: not serving after {}; raise --start-timeout if the model is that large", group.number(),
                absl::FormatDuration(config.start_timeout));
  return End::kBroken;
}

End Supervisor::Impl::Watch(Group& group) {
  while (true) {
    std::vector<pollfd> fds = {{signals.fd(), POLLIN, 0}};
    group.processes->AppendFds(fds);
    const absl::Time deadline = Deadline(group);
    const absl::Duration left = std::min(deadline - clock.Now(), WaitAtMost());
    if (left <= absl::ZeroDuration()) return OnDeadline(group);
    SayAlive(&group);
    poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (group.processes->Look(fds)) CheckReady(group);
    // While draining, shards leave one after the other, and mpirun last.
    const bool draining = phase.load() == Phase::kDraining;
    const std::string first = group.n_shards > 1 ? "mpirun" : "the shard";
    if (const auto ended = group.processes->FindEnded(fds, !draining, first)) {
      if (draining) return End::kDrained;
      spdlog::error("generation {}: {} has ended; the group ends", group.number(), *ended);
      group.ended = *ended;
      group.processes->AwaitShards(kLastWordsGrace);
      return End::kBroken;
    }
    if (fds[0].revents != 0 && signals.Wait(absl::ZeroDuration()) == ShutdownSignals::Event::kSignal) {
      if (const auto end = OnSignal(group)) return *end;
    }
    ReapChildren();
  }
}

void Supervisor::Impl::TearDown(Group& group) {
  SetPhase(Phase::kWaiting);
  const std::vector<engine::RankError> errors = group.processes->TearDown();
  for (const engine::RankError& error : errors) {
    spdlog::error("generation {}: shard {}: {}", group.number(), error.rank, error.reason);
  }
  const std::string seen = group.ended.empty() ? "" : absl::StrCat(group.ended, " ended without a word");
  {
    std::lock_guard lock(last_words_mutex);
    last_words = PublicText(ChooseLastWords(errors, seen));
  }
  group.processes.reset();
}

// False when a signal came.
bool Supervisor::Impl::WaitBeforeRestart(absl::Duration delay) {
  spdlog::info("next start in {}", absl::FormatDuration(delay));
  const absl::Time end = clock.Now() + delay;
  while (clock.Now() < end) {
    SayAlive(nullptr);
    if (signals.Wait(std::min(end - clock.Now(), WaitAtMost())) == ShutdownSignals::Event::kSignal) return false;
  }
  return true;
}

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(const SupervisorConfig& config, Clock& clock,
                                                               ShutdownSignals& signals, Metrics& metrics) {
  auto impl = std::make_unique<Impl>(config, clock, signals, metrics);
  BecomeSubreaper();
  ASSIGN_OR_RETURN(impl->dirs, GroupDirs::Open(config.work_dir, config.shm_root));
  if (!impl->can_read_siblings) {
    spdlog::warn("process_vm_readv is not allowed here; MPI copies through shared memory, which is slower");
  }
  return std::unique_ptr<Supervisor>(new Supervisor(std::move(impl)));
}

Supervisor::Supervisor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Supervisor::~Supervisor() = default;

int Supervisor::Run() {
  Impl& s = *impl_;
  while (true) {
    auto group = s.Start();
    std::optional<absl::Duration> served;
    if (group.ok()) {
      const End end = s.Watch(*group);
      if (group->ready_at.has_value()) served = s.clock.Now() - *group->ready_at;
      s.TearDown(*group);
      if (end != End::kBroken) {
        s.SetPhase(Phase::kStopped);
        return end == End::kDrained ? 0 : 1;
      }
    } else {
      spdlog::error("cannot start the group: {}", std::string(group.status().message()));
      s.SetPhase(Phase::kWaiting);
    }
    s.n_broken.Increment();
    const std::optional<absl::Duration> delay = s.policy.AfterEnd(served);
    if (!delay.has_value()) {
      spdlog::error("{} starts in a row never served; giving up", s.config.failed_starts_max);
      s.liveness.GiveUp();
      s.SetPhase(Phase::kStopped);
      return 1;
    }
    if (!s.WaitBeforeRestart(*delay)) return 0;
  }
}

Readiness Supervisor::readiness() const { return impl_->ReadinessNow(); }
bool Supervisor::live() const { return impl_->liveness.live(impl_->clock.Now()); }

Readiness Supervisor::Impl::ReadinessNow() const {
  const std::string generation_name = "generation " + std::to_string(generation.load());
  std::string words;
  {
    std::lock_guard lock(last_words_mutex);
    words = last_words;
  }
  switch (phase.load()) {
    case Phase::kStarting:
      return {false, generation_name + " is starting" + (words.empty() ? "" : "; the one before ended: " + words)};
    case Phase::kServing:
      return {true, generation_name + " serves"};
    case Phase::kDraining:
      return {false, generation_name + " is draining"};
    case Phase::kWaiting:
      return {false, generation_name + " has ended; the next one follows" + (words.empty() ? "" : "; " + words)};
    case Phase::kStopped:
      break;
  }
  return {false, "stopped"};
}

}  // namespace longshelf::worker
