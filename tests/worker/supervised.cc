#include "supervised.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>

namespace longshelf::testing {
namespace {

namespace fs = std::filesystem;
using Steady = std::chrono::steady_clock;

// Whether `happened` before the limit; looked at often, because these are other processes.
bool Eventually(std::chrono::seconds limit, const std::function<bool()>& happened) {
  const auto deadline = Steady::now() + limit;
  while (!happened()) {
    if (Steady::now() > deadline) return false;
    poll(nullptr, 0, 5);
  }
  return true;
}

std::vector<pid_t> Children(pid_t pid) {
  std::vector<pid_t> out;
  std::error_code error;
  for (fs::directory_iterator it(fs::path("/proc") / std::to_string(pid) / "task", error), end; !error && it != end;
       it.increment(error)) {
    std::ifstream in(it->path() / "children");
    for (pid_t child = 0; in >> child;) out.push_back(child);
  }
  return out;
}

}  // namespace

std::vector<std::string> WorkerCommand(const std::string& shard_binary, const std::vector<std::string>& flags) {
  std::vector<std::string> command = {LONGSHELF_TEST_WORKER, "--shard-binary=" + shard_binary};
  command.insert(command.end(), flags.begin(), flags.end());
  return command;
}

SupervisedWorker::SupervisedWorker(const fs::path& dir, const std::string& shard_binary,
                                   const std::vector<std::string>& flags)
    : SupervisedWorker(dir, WorkerCommand(shard_binary, flags)) {}

SupervisedWorker::SupervisedWorker(const fs::path& dir, std::vector<std::string> command) : dir_(dir) {
  fs::create_directories(dir / "shm");
  command.insert(command.end(), {"--work-dir=" + (dir / "work").string(), "--shm-dir=" + (dir / "shm").string()});
  std::vector<char*> pointers;
  for (std::string& arg : command) pointers.push_back(arg.data());
  pointers.push_back(nullptr);
  // Open MPI keeps strings of modules that it has unloaded by the end, where no suppression can name them.
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  const int log = open((dir / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execvp(pointers[0], pointers.data());
    _exit(127);
  }
  close(log);
}

SupervisedWorker::~SupervisedWorker() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void SupervisedWorker::Signal(int number) const { kill(pid_, number); }

std::optional<GenerationView> SupervisedWorker::WaitServing(uint64_t after, int n_shards,
                                                            std::chrono::seconds limit) const {
  GenerationView found;
  const bool serving = Eventually(limit, [&] {
    std::error_code error;
    for (fs::recursive_directory_iterator it(dir_ / "work", error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (!name.starts_with("generation-")) continue;
      // A killed supervisor's directory may still be there.
      const std::string owner = "worker-" + std::to_string(pid_) + "-";
      if (!it->path().parent_path().filename().string().starts_with(owner)) continue;
      found.generation = std::stoull(name.substr(name.find('-') + 1));
      found.run_dir = it->path() / "run";
      found.ranks = engine::ReadRankPids(found.run_dir);
      if (found.generation >= after && engine::IsReady(found.run_dir) &&
          found.ranks.size() == static_cast<size_t>(n_shards)) {
        return true;
      }
    }
    return false;
  });
  return serving ? std::optional(found) : std::nullopt;
}

std::optional<int> SupervisedWorker::WaitExit(std::chrono::seconds limit) {
  int status = 0;
  if (!Eventually(limit, [&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) return std::nullopt;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string SupervisedWorker::log() const {
  std::ifstream in(dir_ / "log");
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> SupervisedWorker::Leftovers() const {
  std::vector<std::string> out;
  for (const char* part : {"work", "shm"}) {
    for (const auto& entry : fs::directory_iterator(dir_ / part)) {
      if (entry.path().filename() != "lock") out.push_back(entry.path().string());
    }
  }
  return out;
}

std::vector<engine::ProcessId> ProcessTree(pid_t root) {
  std::vector<engine::ProcessId> out;
  std::vector<pid_t> open = {root};
  while (!open.empty()) {
    const pid_t pid = open.back();
    open.pop_back();
    if (const auto id = engine::FindProcess(pid)) out.push_back(*id);
    for (const pid_t child : Children(pid)) open.push_back(child);
  }
  return out;
}

std::optional<std::chrono::milliseconds> TimeUntilGone(const std::vector<engine::ProcessId>& processes,
                                                       std::chrono::seconds limit) {
  const auto start = Steady::now();
  const bool gone =
      Eventually(limit, [&] { return std::none_of(processes.begin(), processes.end(), engine::IsAlive); });
  if (!gone) return std::nullopt;
  return std::chrono::duration_cast<std::chrono::milliseconds>(Steady::now() - start);
}

}  // namespace longshelf::testing
