#include "generation.h"

#include <spdlog/spdlog.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/status.h"

namespace longshelf::worker {
namespace {

constexpr absl::Duration kKillTimeout = absl::Seconds(10);
constexpr uint64_t kShmBytesPerShard = uint64_t{16} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<Generation>> Generation::Start(
    GroupDirs& dirs, uint64_t number, int n_shards,
    const std::function<absl::StatusOr<CommandLine>(const GenerationDirs&)>& line) {
  auto generation = std::unique_ptr<Generation>(new Generation(dirs, number));
  const uint64_t shm_bytes = n_shards > 1 ? static_cast<uint64_t>(n_shards) * kShmBytesPerShard : 0;
  ASSIGN_OR_RETURN(generation->dirs_, dirs.Make(number, shm_bytes));
  const GenerationDirs& own = generation->dirs_;
  // Before the first file can appear.
  generation->inotify_ = OwnedFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!generation->inotify_.valid() ||
      inotify_add_watch(generation->inotify_.get(), own.run.c_str(), IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
    return absl::ResourceExhaustedError("cannot watch the run directory; raise fs.inotify.max_user_instances");
  }
  ASSIGN_OR_RETURN(CommandLine command, line(own));
  std::vector<std::string>& environment = command.environment;
  // What differs from host to host goes by environment: mpirun gives every shard of a group the same flags.
  std::erase_if(environment, [](const std::string& entry) { return entry.starts_with("TMPDIR="); });
  environment.insert(
      environment.end(),
      {absl::StrCat("LONGSHELF_RUN_DIR=", own.run.string()), absl::StrCat("LONGSHELF_SUPERVISOR_PID=", getpid()),
       absl::StrCat("LONGSHELF_MPI_SHM_DIR=", own.shm.string()), absl::StrCat("TMPDIR=", own.tmp.string())});
  ASSIGN_OR_RETURN(generation->session_, SpawnSession(command));
  generation->pidfd_ = OpenPidfd(generation->session_);
  return generation;
}

Generation::~Generation() {
  TearDown();
  all_dirs_.Remove(number_);
}

void Generation::AppendFds(std::vector<pollfd>& fds) const {
  fds.push_back({inotify_.get(), POLLIN, 0});
  fds.push_back({pidfd_.get(), POLLIN, 0});
  for (const auto& [rank, fd] : rank_pidfds_) fds.push_back({fd.get(), POLLIN, 0});
}

bool Generation::Look(const std::vector<pollfd>& fds) {
  const bool news =
      std::any_of(fds.begin(), fds.end(), [this](const pollfd& p) { return p.fd == inotify_.get() && p.revents != 0; });
  if (!news) return false;
  char events[4096];
  while (read(inotify_.get(), events, sizeof(events)) > 0) {
  }
  ReadRanks();
  return true;
}

void Generation::ReadRanks() {
  for (const engine::RankProcess& rank : engine::ReadRankPids(dirs_.run)) {
    if (ranks_.contains(rank.rank)) continue;
    ranks_[rank.rank] = rank.id;
    rank_pidfds_[rank.rank] = OpenPidfd(rank.id.pid);
  }
}

std::optional<std::string> Generation::FindEnded(const std::vector<pollfd>& fds, bool shards_too,
                                                 const std::string& first) const {
  const auto has_ended = [&fds](const OwnedFd& fd) {
    if (!fd.valid()) return true;
    return std::any_of(fds.begin(), fds.end(), [&](const pollfd& p) { return p.fd == fd.get() && p.revents != 0; });
  };
  if (has_ended(pidfd_)) return first;
  if (!shards_too) return std::nullopt;
  for (const auto& [rank, fd] : rank_pidfds_) {
    if (has_ended(fd)) return absl::StrCat("shard ", rank);
  }
  return std::nullopt;
}

void Generation::AwaitShards(absl::Duration limit) {
  ReadRanks();
  std::vector<int> pidfds;
  for (const auto& [rank, fd] : rank_pidfds_) pidfds.push_back(fd.get());
  const SystemClock clock;
  WaitForEnds(pidfds, clock.Now() + limit, clock);
}

std::vector<engine::RankError> Generation::TearDown() {
  if (session_ == 0) return {};
  if (const absl::Status status = KillSession(session_, kKillTimeout); !status.ok()) {
    spdlog::error("generation {}: {}", number_, std::string(status.message()));
  }
  ReadRanks();
  for (const auto& [rank, id] : ranks_) {
    if (engine::IsAlive(id)) KillProcess(id.pid, kKillTimeout);
  }
  ReapChildren();
  session_ = 0;
  return engine::ReadRankErrors(dirs_.run);
}

}  // namespace longshelf::worker
