#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio.hpp>
#include <string>
#include <vector>

#include "absl/time/clock.h"

namespace longshelf::kvstore {

// The longshelf-kvstore binary, or another, killed at the latest with this.
class NodeProcess {
 public:
  explicit NodeProcess(std::vector<std::string> args, const std::string& binary = LONGSHELF_KVSTORE_BINARY) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    args.insert(args.begin(), binary);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    stderr_ = fds[0];
  }
  ~NodeProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(stderr_);
  }

  // Reads standard error until it holds `text`; false at its end or after twenty seconds.
  bool WaitFor(const std::string& text) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (log_.find(text) == std::string::npos) {
      pollfd ready = {stderr_, POLLIN, 0};
      const auto left = absl::ToInt64Milliseconds(deadline - absl::Now());
      if (left <= 0 || poll(&ready, 1, static_cast<int>(left)) <= 0) return false;
      char buffer[4096];
      const ssize_t n = read(stderr_, buffer, sizeof buffer);
      if (n <= 0) return false;
      log_.append(buffer, static_cast<size_t>(n));
    }
    return true;
  }

  // The digits after `text` in the log.
  std::string NumberAfter(const std::string& text) const {
    const size_t begin = log_.find(text) + text.size();
    return log_.substr(begin, log_.find_first_not_of("0123456789", begin) - begin);
  }

  void Signal(int signal_number) const { kill(pid_, signal_number); }

  int ExitCode() {
    WaitFor("\x01");  // until the end: nothing logs this
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    EXPECT_TRUE(WIFEXITED(status)) << status;
    return WEXITSTATUS(status);
  }

  pid_t pid() const { return pid_; }
  const std::string& log() const { return log_; }

 private:
  pid_t pid_ = 0;
  int stderr_ = -1;
  std::string log_;
};

inline std::string HttpGet(const std::string& port, const std::string& path) {
  boost::asio::ip::tcp::iostream stream("127.0.0.1", port);
  stream << "GET " << path << " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" << std::flush;
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace longshelf::kvstore
