#include "cli/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace longshelf::cli {
namespace {

class ChildProcessTest : public ::testing::Test {
 protected:
  ~ChildProcessTest() override { std::filesystem::remove(log_); }

  absl::StatusOr<ChildProcess> Shell(const std::string& script) {
    return ChildProcess::Start("/bin/sh", {"-c", script}, log_);
  }
  static std::string WaitForEnd(ChildProcess& child) {
    pollfd poller = {child.pidfd(), POLLIN, 0};
    EXPECT_EQ(poll(&poller, 1, 30'000), 1);
    return child.Ended().value_or("still running");
  }
  std::string Log() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const std::string log_ = (std::filesystem::path(::testing::TempDir()) / "child_process_test.log").string();
};

TEST_F(ChildProcessTest, KeepsOutputInTheLogAndTellsHowItEnded) {
  auto child = Shell("echo out; echo err >&2; exit 3");
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(WaitForEnd(*child), "exit code 3");
  EXPECT_FALSE(child->ended_well());
  EXPECT_EQ(Log(), "out\nerr\n");
}

TEST_F(ChildProcessTest, IsEndedByTerminateEvenWhereTheParentBlocksSignals) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  auto child = Shell("exec tail -f /dev/null");
  ASSERT_TRUE(child.ok());
  child->Terminate();
  EXPECT_EQ(WaitForEnd(*child), "signal 15");
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

TEST_F(ChildProcessTest, KillsWhatItsChildStarted) {
  auto child = Shell("trap '' TERM; tail -f /dev/null & wait");
  ASSERT_TRUE(child.ok());
  child->Kill();
  EXPECT_EQ(WaitForEnd(*child), "signal 9");
}

TEST_F(ChildProcessTest, HidesOptionsOfTheParent) {
  setenv("LONGSHELF_LISTEN", "x", 1);
  auto child = Shell("echo [$LONGSHELF_LISTEN]");
  unsetenv("LONGSHELF_LISTEN");
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(WaitForEnd(*child), "exit code 0");
  EXPECT_TRUE(child->ended_well());
  EXPECT_EQ(Log(), "[]\n");
}

TEST_F(ChildProcessTest, SaysWhatIsMissing) {
  const auto child = ChildProcess::Start("/nonexistent/program", {}, log_);
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(child.status().message()), ::testing::HasSubstr("/nonexistent/program"));
  EXPECT_FALSE(ChildProcess::Start("/bin/sh", {}, "/nonexistent/log").ok());
}

TEST_F(ChildProcessTest, EndsWithTheProcessThatStartedIt) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    auto child = Shell("exec tail -f /dev/null");
    const pid_t pid = child.ok() ? child->pid() : -1;
    [[maybe_unused]] const ssize_t n = write(pipe_fds[1], &pid, sizeof pid);
    raise(SIGKILL);  // no chance to tidy up
  }
  pid_t pid = -1;
  ASSERT_EQ(read(pipe_fds[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  ASSERT_GT(pid, 0);
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  waitpid(parent, nullptr, 0);
  if (pidfd >= 0) {  // else it is gone already
    pollfd poller = {pidfd, POLLIN, 0};
    EXPECT_EQ(poll(&poller, 1, 30'000), 1);
    close(pidfd);
  }
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

}  // namespace
}  // namespace longshelf::cli
