#include "engine/comm/mpi_session.h"

#include <mpi.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"
#include "mpi_communicator.h"

namespace longshelf::engine {
namespace {

// MPI has just connected the hosts, so a link that does not form has a firewall in its way.
constexpr absl::Duration kLinkTimeout = absl::Seconds(10);

// Processes with equal texts see each other's pids: one boot of one kernel, one pid namespace.
std::string PidSpace() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  struct stat info {};
  const uint64_t pid_namespace = stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
  return absl::StrCat(boot_id, "/", pid_namespace);
}

absl::Status CheckLaunch(const MpiSessionOptions& options, const std::optional<LaunchPosition>& position) {
  if (!position.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("shards is ", options.n_shards,
                                                      ", but this process was not started by mpirun; start "
                                                      "longshelf-worker, or set shards to 1"));
  }
  if (position->size != options.n_shards) {
    return absl::FailedPreconditionError(
        absl::StrCat("shards is ", options.n_shards, ", but mpirun started ", position->size, " processes"));
  }
  return absl::OkStatus();
}

std::optional<int> EnvironmentInt(const char* name) {
  const char* text = std::getenv(name);
  int value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value) || value < 0) return std::nullopt;
  return value;
}

}  // namespace

std::optional<LaunchPosition> ReadLaunchPosition() {
  const std::optional<int> rank = EnvironmentInt("OMPI_COMM_WORLD_RANK");
  const std::optional<int> size = EnvironmentInt("OMPI_COMM_WORLD_SIZE");
  if (!rank.has_value() || !size.has_value() || *rank >= *size) return std::nullopt;
  return LaunchPosition{*rank, *size};
}

struct MpiSession::Impl {
  MpiSessionOptions options;
  std::unique_ptr<GroupWatch> watch;
  std::unique_ptr<MpiCommunicator> communicator;
  HostMap hosts{1};
  std::unique_ptr<Doorbell> doorbell;
  std::unique_ptr<HostLinks> links;  // last: its thread uses the others

  absl::Status HangBells(int rank);
  absl::Status LinkHosts(int rank);
};

MpiSession::MpiSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// Without Finish() MPI is left as it is: the group is broken, and MPI_Finalize would wait for it for ever.
MpiSession::~MpiSession() = default;

Communicator& MpiSession::communicator() { return *impl_->communicator; }
Doorbell& MpiSession::doorbell() { return *impl_->doorbell; }
HostLinks* MpiSession::links() { return impl_->links.get(); }
const HostMap& MpiSession::hosts() const { return impl_->hosts; }
GroupWatch& MpiSession::watch() { return *impl_->watch; }
uint64_t MpiSession::generation() const { return impl_->options.generation; }

namespace {

absl::Status InitMpi() {
  int initialized = 0;
  RETURN_IF_ERROR(MpiStatus(MPI_Initialized(&initialized), "MPI_Initialized"));
  if (initialized != 0) return absl::FailedPreconditionError("MPI is already initialized in this process");
  int provided = MPI_THREAD_SINGLE;
  RETURN_IF_ERROR(MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
  if (provided < MPI_THREAD_FUNNELED) {
    return absl::FailedPreconditionError("this MPI library does not support MPI_THREAD_FUNNELED");
  }
  return MpiStatus(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

// What every shard tells every other one.
struct Presence {
  std::string pid;
  std::string host_key;  // equal on shards that share a run directory, and see each other's pids
  std::string host_name;
};
constexpr size_t kPresenceFields = 3;

absl::StatusOr<Presence> OwnPresence(const std::string& run_dir) {
  struct stat info {};
  if (stat(run_dir.c_str(), &info) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("no run directory ", run_dir));
  }
  char name[HOST_NAME_MAX + 1] = {};
  gethostname(name, HOST_NAME_MAX);
  return Presence{absl::StrCat(getpid()), absl::StrCat(PidSpace(), "/", info.st_dev, ":", info.st_ino), name};
}

absl::StatusOr<std::vector<Presence>> ExchangePresence(Communicator& communicator, const std::string& run_dir) {
  ASSIGN_OR_RETURN(const Presence mine, OwnPresence(run_dir));
  const std::string text = absl::StrJoin({mine.pid, mine.host_key, mine.host_name}, "\n");
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator, text));
  std::vector<Presence> out;
  for (const std::string& one : all) {
    const std::vector<std::string> fields = absl::StrSplit(one, '\n');
    if (fields.size() != kPresenceFields) {
      return absl::InternalError(absl::StrCat("shard ", out.size(), " did not say where it is"));
    }
    out.push_back({fields[0], fields[1], fields[2]});
  }
  return out;
}

// Peers of this host are watched before weights are loaded: loading takes long, and a peer that dies meanwhile must not
// be waited for.
absl::Status WatchNeighbours(int rank, const std::vector<Presence>& all, GroupWatch& watch) {
  const Presence& mine = all[static_cast<size_t>(rank)];
  for (size_t r = 0; r < all.size(); ++r) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(all[r].pid, &pid)) return absl::InternalError(absl::StrCat("shard ", r, " sent no pid"));
    if (static_cast<int>(r) == rank || all[r].host_key != mine.host_key) continue;
    RETURN_IF_ERROR(watch.Watch(pid, absl::StrCat("shard ", r)));
  }
  return absl::OkStatus();
}

HostMap MapHosts(const std::vector<Presence>& all) {
  std::vector<std::string> keys;
  std::vector<std::string> names;
  for (const Presence& one : all) {
    keys.push_back(one.host_key);
    names.push_back(one.host_name);
  }
  return HostMap(keys, names);
}

// MPI reads these when it starts; every host has its own directory. Whoever waits gives its processor away, whatever
// the launcher believes about their number: without that a collective of more shards than processors takes tens of
// milliseconds instead of tens of microseconds.
void SetMpiParameters(const MpiSessionOptions& options) {
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
  if (!options.shm_dir.empty()) {
    setenv("OMPI_MCA_btl_vader_backing_directory", options.shm_dir.c_str(), 1);
    setenv("OMPI_MCA_osc_sm_backing_directory", options.shm_dir.c_str(), 1);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start(MpiSessionOptions options) {
  const std::optional<LaunchPosition> position = ReadLaunchPosition();
  RETURN_IF_ERROR(CheckLaunch(options, position));
  TieToParent();
  RETURN_IF_ERROR(WriteRankPid(options.run_dir, position->rank, getpid()));
  auto impl = std::make_unique<Impl>();
  impl->watch = std::make_unique<GroupWatch>(GroupWatch::Options{options.progress_deadline, options.last_words,
                                                                 RankErrorPath(options.run_dir, position->rank)});
  RETURN_IF_ERROR(impl->watch->Watch(getppid(), "mpirun"));
  if (options.supervisor_pid > 0) {
    RETURN_IF_ERROR(impl->watch->Watch(static_cast<pid_t>(options.supervisor_pid), "the supervisor"));
  }
  SetMpiParameters(options);
  RETURN_IF_ERROR(InitMpi());
  MPI_Comm comm = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  impl->communicator = std::make_unique<MpiCommunicator>(comm, impl->watch.get());
  ASSIGN_OR_RETURN(const std::vector<Presence> all, ExchangePresence(*impl->communicator, options.run_dir));
  RETURN_IF_ERROR(WatchNeighbours(position->rank, all, *impl->watch));
  impl->hosts = MapHosts(all);
  impl->options = std::move(options);
  RETURN_IF_ERROR(impl->HangBells(position->rank));
  RETURN_IF_ERROR(impl->LinkHosts(position->rank));
  return std::unique_ptr<MpiSession>(new MpiSession(std::move(impl)));
}

// One doorbell on each host, by the shard that speaks for it.
absl::Status MpiSession::Impl::HangBells(int rank) {
  if (hosts.speaks(rank)) {
    ASSIGN_OR_RETURN(doorbell, Doorbell::Create(options.run_dir, options.generation));
  }
  RETURN_IF_ERROR(communicator->Barrier());
  if (!hosts.speaks(rank)) {
    ASSIGN_OR_RETURN(doorbell, Doorbell::Open(options.run_dir, options.generation));
  }
  return absl::OkStatus();
}

// Shard 0 listens before it says where; the others connect before anybody goes on.
absl::Status MpiSession::Impl::LinkHosts(int rank) {
  if (hosts.n_hosts() == 1) return absl::OkStatus();
  HostLinks::Options link_options;
  link_options.silence = options.host_silence;
  link_options.beat = options.host_silence / 10;
  link_options.lost = [this](const std::string& reason) { watch->Break(reason); };
  link_options.rung = [this] { doorbell->Ring(); };
  std::string invitation;
  if (rank == 0) {
    if (options.link_listen.empty()) {
      return absl::FailedPreconditionError("shards are on several hosts, but shard 0 has no address for the others");
    }
    std::vector<std::string> peers;
    for (int h = 1; h < hosts.n_hosts(); ++h) peers.push_back(absl::StrCat("host ", hosts.name(h)));
    ASSIGN_OR_RETURN(links, HostLinks::Lead(options.link_listen, std::move(peers), std::move(link_options)));
    invitation = links->invitation().Serialize();
  }
  RETURN_IF_ERROR(communicator->Broadcast(invitation));
  if (rank != 0 && hosts.speaks(rank)) {
    ASSIGN_OR_RETURN(const HostLinks::Invitation to, HostLinks::Invitation::Parse(invitation));
    ASSIGN_OR_RETURN(links, HostLinks::Join(to, static_cast<size_t>(hosts.host_of(rank) - 1), kLinkTimeout,
                                            std::move(link_options)));
  }
  return rank == 0 ? links->AwaitPeers(kLinkTimeout) : absl::OkStatus();
}

absl::Status MpiSession::Finish(absl::Duration deadline) {
  // From here peers may go at any moment, and nobody may wait for them for ever.
  impl_->watch->Disarm();
  if (impl_->links != nullptr) impl_->links->Disarm();
  impl_->watch->ExitAfter(deadline, "the other shards did not leave in time");
  RETURN_IF_ERROR(impl_->communicator->Barrier());
  impl_->communicator->Release();
  return MpiStatus(MPI_Finalize(), "MPI_Finalize");
}

}  // namespace longshelf::engine
