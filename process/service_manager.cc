#include "process/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace longshelf {
namespace {

// How soon READY follows readiness: whoever was started waits for it.
constexpr absl::Duration kReadinessInterval = absl::Milliseconds(100);

std::string TakeFromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  std::string out = value == nullptr ? "" : value;
  unsetenv(name);
  return out;
}

}  // namespace

ServiceManager ServiceManager::FromEnvironment() {
  const std::string socket_path = TakeFromEnvironment("NOTIFY_SOCKET");
  const std::string pid = TakeFromEnvironment("WATCHDOG_PID");
  int64_t us = 0;
  const bool has_watchdog = absl::SimpleAtoi(TakeFromEnvironment("WATCHDOG_USEC"), &us) && us > 0;
  const bool is_for_us = pid.empty() || pid == absl::StrCat(getpid());
  return ServiceManager(socket_path, has_watchdog && is_for_us ? absl::Microseconds(us) : absl::InfiniteDuration());
}

ServiceManager::ServiceManager(std::string socket_path, absl::Duration watchdog)
    : socket_path_(std::move(socket_path)) {
  if (socket_path_.empty() || socket_path_.size() >= sizeof(sockaddr_un::sun_path)) return;
  fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd_ >= 0) watchdog_ = watchdog;
}

ServiceManager::ServiceManager(ServiceManager&& other) noexcept
    : socket_path_(std::move(other.socket_path_)),
      watchdog_(other.watchdog_),
      fd_(std::exchange(other.fd_, -1)),
      was_ready_(other.was_ready_),
      detail_(std::move(other.detail_)) {}

ServiceManager::~ServiceManager() {
  if (fd_ >= 0) close(fd_);
}

void ServiceManager::Send(const std::string& message) {
  if (fd_ < 0) return;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_path_.size());
  // A manager that does not listen any more is nothing that we could mend.
  [[maybe_unused]] const ssize_t n = sendto(fd_, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                                            reinterpret_cast<const sockaddr*>(&address), length);
}

void ServiceManager::Tell(const Readiness& readiness) {
  const bool is_first = readiness.ready && !was_ready_;
  if (!is_first && readiness.detail == detail_) return;
  was_ready_ = was_ready_ || readiness.ready;
  detail_ = readiness.detail;
  Send(absl::StrCat(is_first ? "READY=1\n" : "", "STATUS=", detail_, "\n"));
}

void ServiceManager::Alive() {
  if (watchdog_ < absl::InfiniteDuration()) Send("WATCHDOG=1\n");
}

void ServiceManager::Stopping() { Send("STOPPING=1\nWATCHDOG_USEC=0\nSTATUS=stopping\n"); }

void ServeUntilStopped(ShutdownSignals& signals, ServiceManager& manager, const std::function<bool()>& live,
                       const std::function<Readiness()>& ready) {
  bool is_ready = false;
  absl::Duration wait = absl::InfiniteDuration();
  do {
    if (manager.listens()) {
      const Readiness readiness = ready();
      is_ready = is_ready || readiness.ready;
      manager.Tell(readiness);
      if (live()) manager.Alive();
      wait = is_ready ? manager.beat() : std::min(manager.beat(), kReadinessInterval);
    }
  } while (signals.Wait(wait) == ShutdownSignals::Event::kTimeout);
  manager.Stopping();
}

}  // namespace longshelf
