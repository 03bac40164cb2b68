#include "worker/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"
#include "group_dirs.h"
#include "launch_line.h"
#include "process_tree.h"
#include "restart_policy.h"

namespace longshelf::worker {
namespace {

constexpr absl::Duration kKillTimeout = absl::Seconds(10);
// After the shard's own drain deadline, for leaving the group.
constexpr absl::Duration kDrainGrace = absl::Seconds(8);
constexpr uint64_t kShmBytesPerShard = uint64_t{16} << 20;

enum class Phase { kStarting, kServing, kDraining, kWaiting, kStopped };
// How a generation ended.
enum class End { kBroken, kDrained, kForced };

}  // namespace

// Owner thread: main, but for `phase` and `generation`.
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
  }

  // The processes and events of one generation.
  struct Group {
    uint64_t generation = 0;
    pid_t session = 0;
    OwnedFd pidfd;    // of the session leader: mpirun, or the only shard
    OwnedFd inotify;  // of the run directory
    std::map<int, engine::ProcessId> ranks;
    std::map<int, OwnedFd> rank_pidfds;
    GenerationDirs dirs;
    absl::Time started;
    std::optional<absl::Time> ready_at;
    std::optional<absl::Time> drain_deadline;
  };

  absl::StatusOr<Group> Start();
  End Watch(Group& group);
  std::optional<End> OnSignal(Group& group);
  void ReadRunDir(Group& group);
  std::optional<std::string> FindEnded(const Group& group, const std::vector<pollfd>& fds) const;
  absl::Time Deadline(const Group& group) const;
  End OnDeadline(const Group& group) const;
  void TearDown(Group& group);
  bool WaitBeforeRestart(absl::Duration delay);
};

absl::StatusOr<Supervisor::Impl::Group> Supervisor::Impl::Start() {
  Group group;
  group.generation = generation.fetch_add(1) + 1;
  generation_gauge.Set(static_cast<double>(group.generation));
  n_starts.Increment();
  SetPhase(Phase::kStarting);
  const auto n_shards = static_cast<uint64_t>(config.shard.n_shards);
  ASSIGN_OR_RETURN(group.dirs, dirs->Make(group.generation, n_shards > 1 ? n_shards * kShmBytesPerShard : 0));
  // Before the first file can appear.
  group.inotify = OwnedFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!group.inotify.valid() ||
      inotify_add_watch(group.inotify.get(), group.dirs.run.c_str(), IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
    return absl::ResourceExhaustedError("cannot watch the run directory; raise fs.inotify.max_user_instances");
  }
  const CommandLine line = MakeLaunchLine({.n_shards = config.shard.n_shards,
                                           .mpirun = config.mpirun,
                                           .shard_binary = config.shard_binary,
                                           .run_dir = group.dirs.run.string(),
                                           .shm_dir = group.dirs.shm.string(),
                                           .tmp_dir = group.dirs.tmp.string(),
                                           .generation = group.generation,
                                           .supervisor_pid = getpid(),
                                           .is_root = geteuid() == 0,
                                           .can_read_siblings = can_read_siblings,
                                           .shard_flags = config.shard_flags,
                                           .environment = EnvironmentForChildren()});
  group.started = clock.Now();
  ASSIGN_OR_RETURN(group.session, SpawnSession(line));
  group.pidfd = OpenPidfd(group.session);
  spdlog::info("generation {}: started {} shard(s), process {}", group.generation, n_shards, group.session);
  return group;
}

void Supervisor::Impl::ReadRunDir(Group& group) {
  for (const engine::RankProcess& rank : engine::ReadRankPids(group.dirs.run)) {
    if (group.ranks.contains(rank.rank)) continue;
    group.ranks[rank.rank] = rank.id;
    group.rank_pidfds[rank.rank] = OpenPidfd(rank.id.pid);
  }
  if (!group.ready_at.has_value() && engine::IsReady(group.dirs.run)) {
    group.ready_at = clock.Now();
    if (phase.load() == Phase::kStarting) SetPhase(Phase::kServing);
    spdlog::info("generation {}: serving after {}", group.generation,
                 absl::FormatDuration(absl::Trunc(*group.ready_at - group.started, absl::Milliseconds(1))));
  }
}

// The first signal asks rank 0 to drain; a second one, or one before there is anything to drain, ends it now.
std::optional<End> Supervisor::Impl::OnSignal(Group& group) {
  const bool first = phase.load() != Phase::kDraining;
  const auto leader = group.ranks.find(0);
  if (!first || !group.ready_at.has_value() || leader == group.ranks.end() || !engine::IsAlive(leader->second)) {
    return group.ready_at.has_value() ? End::kForced : End::kDrained;
  }
  spdlog::info("generation {}: draining", group.generation);
  SetPhase(Phase::kDraining);
  group.drain_deadline = clock.Now() + config.shard.drain_timeout + kDrainGrace;
  kill(leader->second.pid, SIGTERM);
  return std::nullopt;
}

std::optional<std::string> Supervisor::Impl::FindEnded(const Group& group, const std::vector<pollfd>& fds) const {
  const auto has_ended = [&fds](const OwnedFd& fd) {
    if (!fd.valid()) return true;
    return std::any_of(fds.begin(), fds.end(), [&](const pollfd& p) { return p.fd == fd.get() && p.revents != 0; });
  };
  if (has_ended(group.pidfd)) return config.shard.n_shards > 1 ? "mpirun" : "the shard";
  // While draining, shards leave one after the other, and mpirun last.
  if (phase.load() == Phase::kDraining) return std::nullopt;
  for (const auto& [rank, fd] : group.rank_pidfds) {
    if (has_ended(fd)) return "shard " + std::to_string(rank);
  }
  return std::nullopt;
}

absl::Time Supervisor::Impl::Deadline(const Group& group) const {
  if (group.drain_deadline.has_value()) return *group.drain_deadline;
  return group.ready_at.has_value() ? absl::InfiniteFuture() : group.started + config.start_timeout;
}

End Supervisor::Impl::OnDeadline(const Group& group) const {
  if (group.drain_deadline.has_value()) {
    spdlog::warn("generation {}: not drained in time", group.generation);
    return End::kForced;
  }
  spdlog::error("generation {}: not serving after {}; raise --start-timeout if the model is that large",
                group.generation, absl::FormatDuration(config.start_timeout));
  return End::kBroken;
}

End Supervisor::Impl::Watch(Group& group) {
  while (true) {
    std::vector<pollfd> fds = {{signals.fd(), POLLIN, 0}, {group.inotify.get(), POLLIN, 0}};
    fds.push_back({group.pidfd.get(), POLLIN, 0});
    for (const auto& [rank, fd] : group.rank_pidfds) fds.push_back({fd.get(), POLLIN, 0});
    const absl::Time deadline = Deadline(group);
    const absl::Duration left = std::min(deadline - clock.Now(), absl::Hours(1));
    if (left <= absl::ZeroDuration()) return OnDeadline(group);
    poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (fds[1].revents != 0) {
      char events[4096];
      while (read(group.inotify.get(), events, sizeof(events)) > 0) {
      }
      ReadRunDir(group);
    }
    if (const auto ended = FindEnded(group, fds)) {
      if (phase.load() == Phase::kDraining) return End::kDrained;
      spdlog::error("generation {}: {} has ended; the group ends", group.generation, *ended);
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
  if (const absl::Status status = KillSession(group.session, kKillTimeout); !status.ok()) {
    spdlog::error("generation {}: {}", group.generation, std::string(status.message()));
  }
  ReadRunDir(group);
  for (const auto& [rank, id] : group.ranks) {
    if (engine::IsAlive(id)) KillProcess(id.pid, kKillTimeout);
  }
  ReapChildren();
  for (const engine::RankError& error : engine::ReadRankErrors(group.dirs.run)) {
    spdlog::error("generation {}: shard {}: {}", group.generation, error.rank, error.reason);
  }
  dirs->Remove(group.generation);
}

// False when a signal came.
bool Supervisor::Impl::WaitBeforeRestart(absl::Duration delay) {
  spdlog::info("next start in {}", absl::FormatDuration(delay));
  return signals.Wait(delay) != ShutdownSignals::Event::kSignal;
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
      s.dirs->Remove(s.generation.load());
      s.SetPhase(Phase::kWaiting);
    }
    s.n_broken.Increment();
    const std::optional<absl::Duration> delay = s.policy.AfterEnd(served);
    if (!delay.has_value()) {
      spdlog::error("{} starts in a row never served; giving up", s.config.failed_starts_max);
      s.SetPhase(Phase::kStopped);
      return 1;
    }
    if (!s.WaitBeforeRestart(*delay)) return 0;
  }
}

Readiness Supervisor::readiness() const {
  const std::string generation = "generation " + std::to_string(impl_->generation.load());
  switch (impl_->phase.load()) {
    case Phase::kStarting:
      return {false, generation + " is starting"};
    case Phase::kServing:
      return {true, generation + " serves"};
    case Phase::kDraining:
      return {false, generation + " is draining"};
    case Phase::kWaiting:
      return {false, generation + " has ended; the next one follows"};
    case Phase::kStopped:
      break;
  }
  return {false, "stopped"};
}

}  // namespace longshelf::worker
