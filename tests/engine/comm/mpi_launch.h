#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace longshelf::testing {

struct LaunchResult {
  int exit_code = -1;      // 128 + signal when killed
  bool timed_out = false;  // killed by the test
  std::string output;      // stdout and stderr
};

// A process of a test, killed with everything below it when the object ends.
class TestProcess {
 public:
  // Output goes to `output_file`.
  TestProcess(const std::vector<std::string>& argv, const std::filesystem::path& output_file);
  ~TestProcess();
  TestProcess(const TestProcess&) = delete;
  TestProcess& operator=(const TestProcess&) = delete;
  pid_t pid() const { return pid_; }
  // Until it ends or `seconds` passed (then it is killed).
  LaunchResult Wait(int seconds);
  std::string output() const;

 private:
  pid_t pid_ = -1;
  int pidfd_ = -1;
  std::filesystem::path output_file_;
};

// mpirun -np n of this build's test shard, with everything it leaves behind below `dir`.
std::vector<std::string> MpirunLine(int n, const std::filesystem::path& dir, const std::vector<std::string>& args,
                                    bool yields = true);

}  // namespace longshelf::testing
