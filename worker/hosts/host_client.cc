#include "host_client.h"

#include <fcntl.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/util/delimited_message_util.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/exec_pointers.h"
#include "common/status.h"
#include "daemon_command.h"
#include "engine/comm/run_dir.h"
#include "launch_line.h"
#include "launch_request.h"
#include "longshelf/v1/host.grpc.pb.h"
#include "net/tls_identity.h"
#include "process_tree.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/grpc_status.h"
#include "proto/internal_auth.h"

namespace longshelf::worker {
namespace {

// What a host says when its part has ended: OK when the daemon ended by itself. Words of its shards are left where the
// supervisor finds them.
absl::Status TakeReply(const LaunchRequest& request, const std::string& host, const v1::HostRunReply& reply) {
  for (const auto& error : reply.errors()) {
    engine::WriteRankError(request.run_dir, error.rank(), absl::StrCat("on host ", host, ": ", error.reason()));
  }
  if (reply.reason().empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("host ", host, ": ", reply.reason()));
}

absl::Status RunOverGrpc(const LaunchRequest& request, const std::string& host, const v1::HostRunRequest& run) {
  std::string token;
  if (!request.token_file.empty()) RETURN_IF_ERROR(ReadSecretFile(request.token_file, &token));
  const SystemClock clock;
  ASSIGN_OR_RETURN(const auto tls,
                   net::TlsIdentity::Load({request.tls_cert, request.tls_key, request.tls_ca}, clock, nullptr));
  const std::string address = absl::StrCat(host, ":", request.port);
  const grpc::ChannelArguments arguments =
      proto::InternalChannelArguments({.timeout_ms = static_cast<int>(request.silence_ms)});
  const auto channel =
      grpc::CreateCustomChannel(address, proto::ChannelCredentials(tls, net::Role::kWorker), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(request.wait_seconds))) {
    return absl::UnavailableError(absl::StrCat("no longshelf-host answers at ", address, " in ", request.wait_seconds,
                                               " s; start it there, or see --launcher"));
  }
  grpc::ClientContext context;
  proto::AddToken(context, token);
  v1::HostRunReply reply;
  const grpc::Status status = v1::Host::NewStub(channel)->Run(&context, run, &reply);
  if (!status.ok()) return absl::UnavailableError(absl::StrCat("host ", host, ": ", status.error_message()));
  return TakeReply(request, host, reply);
}

std::vector<std::string> RemoteShellLine(const LaunchRequest& request, const std::string& host) {
  std::vector<std::string> line;
  if (request.launcher == HostLauncher::kSsh) {
    const int64_t count = std::max<int64_t>(request.silence_ms / 1000, 1);
    line = {"ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=1", "-o"};
    line.insert(line.end(), {absl::StrCat("ServerAliveCountMax=", count), host, "exec"});
  } else {
    // All processors that the job has there, and no pseudo terminal, which would change bytes.
    line = {"srun", "--jobid=" + request.slurm_job, "--nodelist=" + host, "--nodes=1", "--ntasks=1"};
    line.insert(line.end(), {"--overlap", "--mpi=none", "--cpu-bind=none"});
  }
  line.insert(line.end(), {request.program, "run", absl::StrCat("--host-silence=", request.silence_ms, "ms")});
  return line;
}

// srun carries its environment to the other host, where what mpirun and the supervisor set here means nothing.
std::vector<std::string> EnvironmentOfRemoteShell() {
  std::vector<std::string> environment = WithoutOuterJob(EnvironmentForChildren());
  std::erase_if(environment, [](const std::string& entry) { return entry.starts_with("TMPDIR="); });
  return environment;
}

// A child with pipes for its standard input and output, killed with this process.
class PipedChild {
 public:
  static absl::StatusOr<PipedChild> Start(const std::vector<std::string>& argv) {
    int to[2];
    int from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return absl::ResourceExhaustedError("pipe failed");
    const std::vector<std::string> environment = EnvironmentOfRemoteShell();
    const std::vector<char*> arguments = ExecPointers(argv);
    const std::vector<char*> variables = ExecPointers(environment);
    PipedChild child;
    child.pid_ = fork();
    if (child.pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      signal(SIGPIPE, SIG_DFL);
      dup2(to[0], STDIN_FILENO);
      dup2(from[1], STDOUT_FILENO);
      execvpe(arguments[0], arguments.data(), variables.data());
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    child.input_ = OwnedFd(to[1]);
    child.output_ = OwnedFd(from[0]);
    if (child.pid_ < 0) return absl::ResourceExhaustedError("fork failed");
    return child;
  }
  int input() const { return input_.get(); }
  int output() const { return output_.get(); }
  // "exit code 255", or how it died.
  std::string Wait() {
    input_ = OwnedFd();
    int status = 0;
    waitpid(pid_, &status, 0);
    if (WIFEXITED(status)) return absl::StrCat("exit code ", WEXITSTATUS(status));
    return absl::StrCat("signal ", WTERMSIG(status));
  }

 private:
  pid_t pid_ = -1;
  OwnedFd input_;
  OwnedFd output_;
};

// The other side needs a sign of life: a network that is gone closes nothing.
void BeatUntilReadable(const PipedChild& child, int interval_ms) {
  pollfd output{child.output(), POLLIN, 0};
  while (poll(&output, 1, interval_ms) == 0) {
    if (write(child.input(), "", 1) != 1) return;
  }
}

absl::Status RunOverPipe(const LaunchRequest& request, const std::string& host, const v1::HostRunRequest& run) {
  const std::vector<std::string> line = RemoteShellLine(request, host);
  signal(SIGPIPE, SIG_IGN);
  ASSIGN_OR_RETURN(PipedChild child, PipedChild::Start(line));
  // Its input stays open: that it closes is how the other side learns that we are gone.
  if (!google::protobuf::util::SerializeDelimitedToFileDescriptor(run, child.input())) {
    return absl::UnavailableError(absl::StrCat(line[0], " to host ", host, " ended: ", child.Wait()));
  }
  BeatUntilReadable(child, static_cast<int>(request.silence_ms / 4));
  google::protobuf::io::FileInputStream in(child.output());
  v1::HostRunReply reply;
  bool clean_eof = false;
  if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(&reply, &in, &clean_eof)) {
    const std::string how = child.Wait();
    return absl::UnavailableError(absl::StrCat(
        "host ", host, ": ", line[0], " ended with ", how,
        how == "exit code 127" ? absl::StrCat("; is ", request.program, " there? See --host-binary") : ""));
  }
  return TakeReply(request, host, reply);
}

}  // namespace

absl::Status ConnectHost(const std::filesystem::path& request_file, const std::string& host,
                         const std::vector<std::string>& command) {
  ASSIGN_OR_RETURN(const LaunchRequest request, ReadLaunchRequest(request_file));
  ASSIGN_OR_RETURN(const std::vector<std::string> daemon_args, ParseDaemonCommand(command));
  const auto at = std::find(request.hosts.begin(), request.hosts.end(), host);
  if (at == request.hosts.end() || request.names.size() != request.hosts.size()) {
    return absl::InvalidArgumentError(absl::StrCat("mpirun wants a daemon on ", host, ", which is not in --hosts"));
  }
  v1::HostRunRequest run;
  run.set_generation(request.generation);
  run.set_n_shards(static_cast<uint32_t>(request.shards_per_host));
  run.set_daemon_port_begin(static_cast<uint32_t>(request.daemon_port_begin));
  run.set_daemon_port_end(static_cast<uint32_t>(request.daemon_port_end));
  for (const std::string& arg : daemon_args) run.add_daemon_args(arg);
  for (const std::string& entry : request.environment) run.add_environment(entry);
  const std::string& name = request.names[static_cast<size_t>(at - request.hosts.begin())];
  const absl::Status status =
      request.launcher == HostLauncher::kAgent ? RunOverGrpc(request, name, run) : RunOverPipe(request, name, run);
  if (!status.ok()) {
    const auto first_rank = static_cast<int>(at - request.hosts.begin()) * request.shards_per_host;
    std::error_code error;
    if (!std::filesystem::exists(engine::RankErrorPath(request.run_dir, first_rank), error)) {
      engine::WriteRankError(request.run_dir, first_rank, std::string(status.message()));
    }
  }
  return status;
}

}  // namespace longshelf::worker
