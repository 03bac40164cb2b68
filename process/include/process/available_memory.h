#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace longshelf {

// What this process may still take before the kernel swaps or kills.
struct AvailableMemory {
  uint64_t bytes = 0;
  std::string bound_by;  // for people: "this machine" or "control group /sys/fs/cgroup/x (limit 209715200 bytes)"
};

// The least of what the machine has available and of what the control group of this process and each one above it
// (version 1 or 2, also seen from inside a container) leave, file pages that the kernel can drop not counted as used.
// What cannot be read is no bound. `root` stands for / in tests.
AvailableMemory FindAvailableMemory(const std::filesystem::path& root = "/");

}  // namespace longshelf
