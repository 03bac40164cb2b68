#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace longshelf {

// A control group that bounds this process: its own or one above it.
struct ControlGroup {
  std::filesystem::path dir;  // as seen by this process, below `root`
  bool is_v2 = false;
};

// Those of `controller` ("memory", "cpu"), version 1 or 2, also seen from inside a container; innermost first. What
// cannot be read is no group. `root` stands for / in tests.
std::vector<ControlGroup> FindControlGroups(const std::filesystem::path& root, const std::string& controller);

std::vector<std::string> LinesOf(const std::filesystem::path& path);

}  // namespace longshelf
