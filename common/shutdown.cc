#include "common/shutdown.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>

#include "common/check.h"
#include "common/clock.h"

namespace longshelf {
namespace {

bool ReadWhole(int fd, void* out, size_t bytes) { return read(fd, out, bytes) == static_cast<ssize_t>(bytes); }

}  // namespace

ShutdownSignals::ShutdownSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  LONGSHELF_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  signal(SIGPIPE, SIG_IGN);
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  // As the standard library says it of threads: too few descriptors are not a bug.
  if (signal_fd_ < 0 || wake_fd_ < 0 || epoll_fd_ < 0)
    throw std::system_error(errno, std::generic_category(), "signalfd");
  for (const int fd : {signal_fd_, wake_fd_}) {
    epoll_event event = {};
    event.events = EPOLLIN;
    LONGSHELF_CHECK(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0);
  }
}

ShutdownSignals::~ShutdownSignals() {
  close(epoll_fd_);
  close(wake_fd_);
  close(signal_fd_);
}

ShutdownSignals::Event ShutdownSignals::Wait(absl::Duration timeout) {
  const SystemClock clock;
  const absl::Time deadline = clock.Now() + timeout;
  while (true) {
    signalfd_siginfo info;
    if (ReadWhole(signal_fd_, &info, sizeof info)) {
      last_signal_ = static_cast<int>(info.ssi_signo);
      return Event::kSignal;
    }
    uint64_t wakes = 0;
    if (ReadWhole(wake_fd_, &wakes, sizeof wakes)) return Event::kWake;
    const absl::Duration left = deadline - clock.Now();
    if (left <= absl::ZeroDuration()) return Event::kTimeout;
    const int64_t ms = std::min<int64_t>(absl::ToInt64Milliseconds(left), 1 << 30) + 1;
    epoll_event event;
    const int n = epoll_wait(epoll_fd_, &event, 1, timeout == absl::InfiniteDuration() ? -1 : static_cast<int>(ms));
    LONGSHELF_CHECK(n >= 0 || errno == EINTR);
  }
}

void ShutdownSignals::Wake() {
  const uint64_t one = 1;
  // Fails only when 2^64 - 2 wakes are pending, and then one is pending.
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof one);
}

}  // namespace longshelf
