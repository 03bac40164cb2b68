#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace longshelf::kvstore {

// Memory of this process that is really there.
inline uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t n_total = 0;
  uint64_t n_resident = 0;
  statm >> n_total >> n_resident;
  return n_resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace longshelf::kvstore
