#include "cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/exec_pointers.h"

namespace longshelf::cli {
namespace {

// After fork: system calls only. Ends by becoming the program, or by writing errno to `report_fd`.
[[noreturn]] void BecomeProgram(char* const* argv, char* const* environment, pid_t parent, int log_fd, int report_fd) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);  // it ended before the call above
  setpgid(0, 0);
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null_fd, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  execve(argv[0], argv, environment);
  const int why = errno;
  [[maybe_unused]] const ssize_t n = write(report_fd, &why, sizeof why);
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::string& program, const std::vector<std::string>& args,
                                                 const std::string& log_path) {
  std::vector<std::string> words = {program};
  words.insert(words.end(), args.begin(), args.end());
  const std::vector<std::string> environment = EnvironmentForChildren();
  const std::vector<char*> argv = ExecPointers(words);
  const std::vector<char*> environment_pointers = ExecPointers(environment);

  const int log_fd = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  int report[2];
  if (log_fd < 0 || pipe2(report, O_CLOEXEC) != 0) {
    const std::string why = std::strerror(errno);
    if (log_fd >= 0) close(log_fd);
    return absl::UnavailableError(absl::StrCat("cannot open ", log_path, ": ", why));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeProgram(argv.data(), environment_pointers.data(), parent, log_fd, report[1]);
  close(log_fd);
  close(report[1]);
  int why = pid < 0 ? errno : 0;
  // Ends with nothing read when exec succeeds, because the pipe closes then.
  const bool failed = pid < 0 || read(report[0], &why, sizeof why) > 0;
  close(report[0]);
  if (!failed) return ChildProcess(pid, static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (pid > 0) waitpid(pid, nullptr, 0);
  const std::string message = absl::StrCat("cannot start ", program, ": ", std::strerror(why));
  return why == ENOENT ? absl::NotFoundError(message) : absl::UnavailableError(message);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::exchange(other.pidfd_, -1)),
      ended_(std::move(other.ended_)),
      ended_well_(other.ended_well_) {}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !Ended().has_value()) {
    Kill();
    waitpid(pid_, nullptr, 0);
  }
  if (pidfd_ >= 0) close(pidfd_);
}

const std::optional<std::string>& ChildProcess::Ended() {
  int status = 0;
  if (!ended_.has_value() && waitpid(pid_, &status, WNOHANG) == pid_) {
    ended_well_ = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    ended_ = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                                 : absl::StrCat("exit code ", WEXITSTATUS(status));
  }
  return ended_;
}

void ChildProcess::Terminate() {
  if (!ended_.has_value()) kill(pid_, SIGTERM);
}

void ChildProcess::Kill() {
  if (ended_.has_value()) return;
  kill(-pid_, SIGKILL);
  kill(pid_, SIGKILL);  // should its group not exist yet
}

std::string ProgramDirectory() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "" : self.parent_path().string();
}

}  // namespace longshelf::cli
