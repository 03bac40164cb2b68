#include "engine/comm/mpi_session.h"

#include <mpi.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"
#include "mpi_communicator.h"

namespace longshelf::engine {
namespace {

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
  std::unique_ptr<Doorbell> doorbell;
};

MpiSession::MpiSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// Without Finish() MPI is left as it is: the group is broken, and MPI_Finalize would wait for it for ever.
MpiSession::~MpiSession() = default;

Communicator& MpiSession::communicator() { return *impl_->communicator; }
Doorbell& MpiSession::doorbell() { return *impl_->doorbell; }
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

// Peers are watched before weights are loaded: loading takes long, and a peer that dies meanwhile must not be waited
// for.
absl::Status WatchPeers(Communicator& communicator, GroupWatch& watch) {
  const std::string space = PidSpace();
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator, absl::StrCat(getpid(), "@", space)));
  for (int r = 0; r < communicator.size(); ++r) {
    const std::string& text = all[static_cast<size_t>(r)];
    const size_t at = text.find('@');
    pid_t pid = 0;
    if (at == std::string::npos || !absl::SimpleAtoi(text.substr(0, at), &pid)) {
      return absl::InternalError(absl::StrCat("shard ", r, " sent no pid"));
    }
    if (r == communicator.rank() || text.substr(at + 1) != space) continue;
    RETURN_IF_ERROR(watch.Watch(pid, absl::StrCat("shard ", r)));
  }
  return absl::OkStatus();
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
  RETURN_IF_ERROR(InitMpi());
  MPI_Comm comm = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  impl->communicator = std::make_unique<MpiCommunicator>(comm, impl->watch.get());
  RETURN_IF_ERROR(WatchPeers(*impl->communicator, *impl->watch));

  if (position->rank == 0) {
    ASSIGN_OR_RETURN(impl->doorbell, Doorbell::Create(options.run_dir, options.generation));
  }
  RETURN_IF_ERROR(impl->communicator->Barrier());
  if (position->rank != 0) {
    ASSIGN_OR_RETURN(impl->doorbell, Doorbell::Open(options.run_dir, options.generation));
  }
  impl->options = std::move(options);
  return std::unique_ptr<MpiSession>(new MpiSession(std::move(impl)));
}

absl::Status MpiSession::Finish(absl::Duration deadline) {
  // From here peers may go at any moment, and nobody may wait for them for ever.
  impl_->watch->Disarm();
  impl_->watch->ExitAfter(deadline, "the other shards did not leave in time");
  RETURN_IF_ERROR(impl_->communicator->Barrier());
  impl_->communicator->Release();
  return MpiStatus(MPI_Finalize(), "MPI_Finalize");
}

}  // namespace longshelf::engine
