#pragma once

#include <cstdint>
#include <iosfwd>

#include "absl/status/status.h"

namespace longshelf::testing {

struct ChurnSettings {
  double minutes = 0.4;
  int n_clients = 6;
  uint64_t seed = 1;
};

// A router, two workers with real engines and a KV store, all in this process and too small for what they are asked:
// clients ask through HTTP and gRPC, cancel, go away in the middle of anything, park sessions and take them up on the
// other worker. Answers that are read to the end must have the tokens that the same prompt had before. In the end every
// block, slot, stream, connection and reservation must be where it was before the first request. Writes what was done
// to `out`. INTERNAL: what was left behind, or what never happened.
absl::Status RunChurn(const ChurnSettings& settings, std::ostream& out);

}  // namespace longshelf::testing
