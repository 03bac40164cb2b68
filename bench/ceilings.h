#pragma once

#include <iosfwd>

#include "absl/status/status.h"

namespace longshelf::bench {

struct CeilingsSettings {
  int max_threads = 0;  // 0 = as many as there are cores
  int n_rounds = 5;
  double seconds = 0.2;  // of one measurement
};

// What memory and the cores give at most, for 1, 2, 4, ... threads, and writes one CSV line each: the median of the
// rounds. FAILED_PRECONDITION: no AVX2.
absl::Status RunCeilings(const CeilingsSettings& settings, std::ostream& csv);

}  // namespace longshelf::bench
