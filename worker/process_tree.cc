#include "process_tree.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/exec_pointers.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kCloseRangeCloexec = 1U << 2;  // CLOSE_RANGE_CLOEXEC of linux/close_range.h

// Between fork and exec in a program with threads: system calls only.
[[noreturn]] void BecomeSession(char* const* argv, char* const* environment, pid_t parent, int report_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before the call above
  setsid();
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) signal(signal_number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null_fd = open("/dev/null", O_RDONLY);
  if (null_fd >= 0) dup2(null_fd, STDIN_FILENO);
  // Whatever a library opened without the flag: a child that holds our listening socket keeps the port taken.
  syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, kCloseRangeCloexec);
  execvpe(argv[0], argv, environment);
  const int why = errno;
  [[maybe_unused]] const ssize_t n = write(report_fd, &why, sizeof(why));
  _exit(127);
}

}  // namespace

OwnedFd& OwnedFd::operator=(OwnedFd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.Release();
  }
  return *this;
}

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) close(fd_);
}

int OwnedFd::Release() { return std::exchange(fd_, -1); }

absl::StatusOr<pid_t> SpawnSession(const CommandLine& line) {
  const std::vector<char*> argv = ExecPointers(line.argv);
  const std::vector<char*> environment = ExecPointers(line.environment);
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return absl::UnavailableError(absl::StrCat("pipe: ", strerror(errno)));
  OwnedFd read_end(report[0]);
  OwnedFd write_end(report[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", strerror(errno)));
  if (pid == 0) BecomeSession(argv.data(), environment.data(), parent, write_end.get());
  write_end = OwnedFd();
  int why = 0;
  // Closed without a word when exec has succeeded.
  if (read(read_end.get(), &why, sizeof(why)) == static_cast<ssize_t>(sizeof(why))) {
    waitpid(pid, nullptr, 0);
    return absl::NotFoundError(absl::StrCat("cannot run ", line.argv[0], ": ", strerror(why)));
  }
  return pid;
}

OwnedFd OpenPidfd(pid_t pid) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
  return OwnedFd(fd);
}

bool WaitForEnds(const std::vector<int>& pidfds, absl::Time deadline, const Clock& clock) {
  std::vector<pollfd> fds;
  for (const int fd : pidfds) {
    if (fd >= 0) fds.push_back({fd, POLLIN, 0});
  }
  while (!fds.empty()) {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - clock.Now());
    if (left_ms <= 0) return false;
    poll(fds.data(), fds.size(), static_cast<int>(std::min<int64_t>(left_ms, 60'000)));
    std::erase_if(fds, [](const pollfd& fd) { return fd.revents != 0; });
  }
  return true;
}

std::vector<pid_t> SessionMembers(pid_t session) {
  std::vector<pid_t> members;
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    pid_t pid = 0;
    const auto [last, failed] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (failed != std::errc() || last != name.data() + name.size()) continue;
    if (getsid(pid) == session) members.push_back(pid);
  }
  return members;
}

void ReapChildren() {
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

absl::Status KillSession(pid_t session, absl::Duration timeout) {
  const SystemClock clock;
  const absl::Time deadline = clock.Now() + timeout;
  // Again until a look finds nobody: a process may have forked between the look and the kill.
  while (true) {
    ReapChildren();
    const std::vector<pid_t> members = SessionMembers(session);
    if (members.empty()) return absl::OkStatus();
    std::vector<OwnedFd> opened;
    std::vector<int> pidfds;
    for (const pid_t pid : members) {
      pidfds.push_back(opened.emplace_back(OpenPidfd(pid)).get());
      kill(pid, SIGKILL);
    }
    if (!WaitForEnds(pidfds, deadline, clock) || clock.Now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(members.size(), " processes of session ", session, " do not end after SIGKILL"));
    }
  }
}

void KillProcess(pid_t pid, absl::Duration timeout) {
  const SystemClock clock;
  const OwnedFd pidfd = OpenPidfd(pid);
  kill(pid, SIGKILL);
  WaitForEnds({pidfd.get()}, clock.Now() + timeout, clock);
}

void BecomeSubreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

bool CanReadSiblings() {
  int secret = 42;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    int copy = 0;
    const iovec to{&copy, sizeof(copy)};
    const iovec from{&secret, sizeof(secret)};
    _exit(process_vm_readv(parent, &to, 1, &from, 1, 0) == static_cast<ssize_t>(sizeof(copy)) && copy == 42 ? 0 : 1);
  }
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace longshelf::worker
