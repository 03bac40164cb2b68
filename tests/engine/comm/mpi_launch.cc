#include "mpi_launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace longshelf::testing {

TestProcess::TestProcess(const std::vector<std::string>& argv, const std::filesystem::path& output_file)
    : output_file_(output_file) {
  std::vector<char*> pointers;
  for (const std::string& arg : argv) pointers.push_back(const_cast<char*>(arg.c_str()));
  pointers.push_back(nullptr);
  const int out = open(output_file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execvp(pointers[0], pointers.data());
    _exit(127);
  }
  close(out);
  pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
}

TestProcess::~TestProcess() {
  if (pid_ > 0) {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(pidfd_);
}

std::string TestProcess::output() const {
  std::ifstream in(output_file_);
  return {std::istreambuf_iterator<char>(in), {}};
}

LaunchResult TestProcess::Wait(int seconds) {
  pollfd fd{pidfd_, POLLIN, 0};
  const bool timed_out = poll(&fd, 1, seconds * 1000) <= 0;
  if (timed_out) kill(-pid_, SIGKILL);
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), timed_out, output()};
}

std::vector<std::string> MpirunLine(int n, const std::filesystem::path& dir, const std::vector<std::string>& args,
                                    bool yields) {
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  // Open MPI keeps strings of modules that it has unloaded by the end, where no suppression can name them.
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  std::vector<std::string> line = {"mpirun", "--oversubscribe", "--bind-to", "none"};
  const std::vector<std::pair<std::string, std::string>> settings = {{"pml", "ob1"},
                                                                     {"btl", "self,vader"},
                                                                     {"mpi_yield_when_idle", yields ? "1" : "0"},
                                                                     {"btl_vader_backing_directory", dir.string()},
                                                                     {"orte_tmpdir_base", dir.string()}};
  for (const auto& [name, value] : settings) line.insert(line.end(), {"--mca", name, value});
  line.insert(line.end(), {"-np", std::to_string(n), LONGSHELF_TEST_SHARD, dir.string()});
  line.insert(line.end(), args.begin(), args.end());
  return line;
}

}  // namespace longshelf::testing
