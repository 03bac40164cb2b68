#include "process/service_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "testing/fixtures.h"

namespace longshelf {
namespace {

using ::testing::ElementsAre;

// systemd's end.
class FakeManager {
 public:
  explicit FakeManager(std::string path) : path_(std::move(path)), fd_(socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path_.size())),
              0);
  }
  ~FakeManager() { close(fd_); }

  // What has been said; a datagram is there once its sender has sent it.
  std::vector<std::string> Heard() {
    std::vector<std::string> out;
    char text[4096];
    for (ssize_t n = 0; (n = recv(fd_, text, sizeof text, MSG_DONTWAIT)) >= 0;) {
      out.emplace_back(text, static_cast<size_t>(n));
    }
    return out;
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  const int fd_;
};

class ServiceManagerTest : public ::testing::Test {
 protected:
  FakeManager fake_{(testing::MakeTempDir("notify") / "socket").string()};
};

TEST_F(ServiceManagerTest, SaysReadyOnceAndTheDetailWhenItChanges) {
  ServiceManager manager(fake_.path(), absl::InfiniteDuration());
  manager.Tell({false, "loading"});
  manager.Tell({false, "loading"});
  manager.Tell({true, "serving"});
  manager.Tell({false, "1 worker lost"});
  manager.Tell({true, "serving"});
  EXPECT_THAT(fake_.Heard(), ElementsAre("STATUS=loading\n", "READY=1\nSTATUS=serving\n", "STATUS=1 worker lost\n",
                                         "STATUS=serving\n"));
  manager.Alive();
  EXPECT_THAT(fake_.Heard(), ElementsAre()) << "nobody asked for a sign of life";
  manager.Stopping();
  EXPECT_THAT(fake_.Heard(), ElementsAre("STOPPING=1\nWATCHDOG_USEC=0\nSTATUS=stopping\n"));
}

TEST_F(ServiceManagerTest, TakesWhatConcernsItFromTheEnvironment) {
  setenv("NOTIFY_SOCKET", fake_.path().c_str(), 1);
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_EQ(manager.beat(), absl::Seconds(1));
  manager.Alive();
  EXPECT_THAT(fake_.Heard(), ElementsAre("WATCHDOG=1\n"));
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) EXPECT_EQ(getenv(name), nullptr) << name;

  setenv("NOTIFY_SOCKET", fake_.path().c_str(), 1);
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().beat(), absl::InfiniteDuration()) << "it is another process's";
}

TEST_F(ServiceManagerTest, SpeaksToTheAbstractNamespaceToo) {
  FakeManager abstract("@longshelf-test-" + std::to_string(getpid()));
  ServiceManager manager(abstract.path(), absl::InfiniteDuration());
  manager.Tell({true, ""});
  EXPECT_THAT(abstract.Heard(), ElementsAre("READY=1\nSTATUS=\n"));
}

TEST(ServiceManager, TellsNobodyWhereNobodyListens) {
  ServiceManager none;
  none.Tell({true, "serving"});
  EXPECT_FALSE(none.listens());
  ServiceManager gone("/nonexistent/socket", absl::Seconds(3));
  gone.Tell({true, "serving"});
  gone.Alive();
  gone.Stopping();
  EXPECT_FALSE(ServiceManager(std::string(200, 'x'), absl::Seconds(3)).listens());
}

TEST_F(ServiceManagerTest, AServerThatStandsStillIsNotAlive) {
  ShutdownSignals signals;
  ServiceManager manager(fake_.path(), absl::Milliseconds(3));
  int n_asked = 0;
  ServeUntilStopped(
      signals, manager,
      [&] {
        if (++n_asked == 5) signals.Wake();
        return n_asked <= 2;
      },
      [&] {
        return Readiness{n_asked >= 1, "serving"};
      });
  EXPECT_THAT(fake_.Heard(), ElementsAre("STATUS=serving\n", "WATCHDOG=1\n", "READY=1\nSTATUS=serving\n",
                                         "WATCHDOG=1\n", "STOPPING=1\nWATCHDOG_USEC=0\nSTATUS=stopping\n"));
}

}  // namespace
}  // namespace longshelf
