#pragma once

#include <algorithm>
#include <ctime>
#include <vector>

namespace longshelf {

// Of at least one value.
inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A tenth of the values is below: what the machine gives while it does nothing else. Of at least one value.
inline double Quiet(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 10];
}

// That this process used so far, on all cores. Other work on the machine stretches wall time, but hardly this.
inline double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace longshelf
