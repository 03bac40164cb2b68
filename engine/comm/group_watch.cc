#include "engine/comm/group_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "engine/comm/quiet_thread.h"

namespace longshelf::engine {
namespace {

constexpr int kTickMs = 250;
constexpr int64_t kSlowestExchangeFactor = 3;

int64_t SteadyNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void WriteLine(int fd, const std::string& line) {
  [[maybe_unused]] const ssize_t n = write(fd, line.data(), line.size());
}

}  // namespace

GroupWatch::GroupWatch(Options options) : options_(std::move(options)) {
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  thread_ = StartQuietThread([this] { Loop(); });
}

GroupWatch::~GroupWatch() {
  stopping_.store(true);
  Wake();
  thread_.join();
  for (const Watched& watched : watched_) close(watched.pidfd);
  close(wake_fd_);
}

void GroupWatch::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof(one));
}

absl::Status GroupWatch::Watch(pid_t pid, const std::string& name) {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    return absl::UnavailableError(absl::StrCat("cannot watch ", name, " (process ", pid, "): ", strerror(errno)));
  }
  fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  {
    std::lock_guard lock(mutex_);
    watched_.push_back({pidfd, absl::StrCat(name, " (process ", pid, ")")});
  }
  Wake();
  return absl::OkStatus();
}

void GroupWatch::Break(const std::string& reason) {
  if (armed_.load()) Die(reason);
}

void GroupWatch::Disarm() {
  armed_.store(false);
  Wake();
}

void GroupWatch::ExitAfter(absl::Duration deadline, const std::string& reason) {
  {
    std::lock_guard lock(mutex_);
    exit_reason_ = reason;
  }
  exit_at_ns_.store(SteadyNs() + absl::ToInt64Nanoseconds(deadline));
  Wake();
}

void GroupWatch::BeginStep(uint64_t seq) {
  seq_.store(seq, std::memory_order_relaxed);
  progress_at_ns_.store(SteadyNs(), std::memory_order_release);
}

void GroupWatch::MarkProgress() {
  const int64_t before = progress_at_ns_.load(std::memory_order_relaxed);
  if (before == 0) return;
  const int64_t now = SteadyNs();
  // The slowest first: whoever sees the new time must see it too.
  if (now - before > slowest_exchange_ns_.load(std::memory_order_relaxed)) {
    slowest_exchange_ns_.store(now - before, std::memory_order_relaxed);
  }
  progress_at_ns_.store(now, std::memory_order_release);
}

void GroupWatch::EndStep() {
  MarkProgress();
  progress_at_ns_.store(0, std::memory_order_release);
}

void GroupWatch::CheckProgress() {
  const int64_t now = SteadyNs();
  if (const int64_t exit_at = exit_at_ns_.load(); exit_at != 0 && now >= exit_at) {
    std::unique_lock lock(mutex_);
    const std::string reason = exit_reason_;
    lock.unlock();
    Die(reason);
  }
  const int64_t progress_at = progress_at_ns_.load(std::memory_order_acquire);
  if (progress_at == 0) return;
  const int64_t limit = std::max(absl::ToInt64Nanoseconds(options_.progress_deadline),
                                 kSlowestExchangeFactor * slowest_exchange_ns_.load(std::memory_order_relaxed));
  if (now - progress_at > limit) {
    Die(absl::StrCat("step ", seq_.load(), " made no progress for ", limit / 1'000'000, " ms"));
  }
}

void GroupWatch::Loop() {
  std::vector<pollfd> fds;
  std::vector<std::string> names;
  while (!stopping_.load()) {
    fds.assign(1, pollfd{wake_fd_, POLLIN, 0});
    names.assign(1, "");
    if (armed_.load()) {
      std::lock_guard lock(mutex_);
      for (const Watched& watched : watched_) {
        fds.push_back({watched.pidfd, POLLIN, 0});
        names.push_back(watched.name);
      }
    }
    const int n = poll(fds.data(), fds.size(), kTickMs);
    if (n > 0 && fds[0].revents != 0) {
      uint64_t ignored = 0;
      [[maybe_unused]] const ssize_t got = read(wake_fd_, &ignored, sizeof(ignored));
    }
    for (size_t i = 1; n > 0 && i < fds.size(); ++i) {
      if (fds[i].revents != 0 && armed_.load() && !stopping_.load()) Die(absl::StrCat(names[i], " is gone"));
    }
    CheckProgress();
  }
}

void GroupWatch::Die(const std::string& reason) {
  WriteLine(STDERR_FILENO, absl::StrCat("longshelf shard ", getpid(), " ends: ", reason, "\n"));
  if (!options_.error_file.empty()) {
    const int fd = open(options_.error_file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) WriteLine(fd, reason);
  }
  if (options_.last_words) options_.last_words(reason);
  _exit(kGroupBrokenExitCode);
}

}  // namespace longshelf::engine
