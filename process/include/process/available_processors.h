#pragma once

#include <filesystem>
#include <string>

namespace longshelf {

// How many processors this process can keep busy.
struct AvailableProcessors {
  int n = 1;
  std::string bound_by;  // for people: "this machine" or "control group /sys/fs/cgroup/x (2.5 processors)"
};

// The least of the processors that this process may run on and of the processor time, rounded up, that its control
// group and each one above it allow (version 1 or 2, also seen from inside a container). What cannot be read is no
// bound. `root` stands for / in tests; n_here: of the processors that it may run on, 0: what the system says.
AvailableProcessors FindAvailableProcessors(const std::filesystem::path& root = "/", int n_here = 0);

}  // namespace longshelf
