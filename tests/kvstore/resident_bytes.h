#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>

namespace longshelf::kvstore {

// Memory of this process that is really there.
inline uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t n_total = 0;
  uint64_t n_resident = 0;
  statm >> n_total >> n_resident;
  return n_resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// The most that another process ever had; 0 when that is not known.
inline uint64_t PeakResidentBytes(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  const std::string field = "VmHWM:";
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field)) return std::stoull(line.substr(field.size())) << 10;
  }
  return 0;
}

}  // namespace longshelf::kvstore
