#pragma once

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "common/shutdown.h"
#include "net/admin_server.h"

namespace longshelf {

// Tells systemd how this process is, over the socket that it names (sd_notify's protocol). Tells nobody where none is
// named. For one thread.
class ServiceManager {
 public:
  // Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that children do not speak for us.
  // REQUIRES: no other thread yet.
  static ServiceManager FromEnvironment();
  ServiceManager() = default;
  ServiceManager(std::string socket_path, absl::Duration watchdog);  // a leading @ stands for the abstract namespace
  ~ServiceManager();
  ServiceManager(ServiceManager&& other) noexcept;
  ServiceManager& operator=(ServiceManager&&) = delete;

  bool listens() const { return fd_ >= 0; }
  // How often Alive() is due; infinite where nobody asked for it.
  absl::Duration beat() const { return watchdog_ / 3; }

  void Tell(const Readiness& readiness);  // READY=1 the first time it is ready, and the detail whenever it changes
  void Alive();                           // only when work has been seen to go on
  void Stopping();                        // from here on the stop timeout counts, and no beat is due

 private:
  void Send(const std::string& message);

  std::string socket_path_;
  absl::Duration watchdog_ = absl::InfiniteDuration();
  int fd_ = -1;
  bool was_ready_ = false;
  std::string detail_;
};

// Until the first signal or Wake; meanwhile tells the manager when `ready` first is, and that it is alive while `live`
// says so. Both are called on this thread.
void ServeUntilStopped(ShutdownSignals& signals, ServiceManager& manager, const std::function<bool()>& live,
                       const std::function<Readiness()>& ready);

}  // namespace longshelf
