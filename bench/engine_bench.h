#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace longshelf::bench {

struct EngineBenchSettings {
  std::string config =
      "flash-small";               // mid, flash-thin, flash-small, pro-small, a checkpoint directory or a config.json
  std::string weights = "random";  // or those of a checkpoint directory: "mapped", "huge"
  std::vector<std::string> contexts = {"1024", "8192"};
  std::vector<std::string> batches = {"1", "8"};
  int n_threads = 1;
  int64_t chunk_tokens = 64;
  int n_rounds = 5;
  std::string numerics = "native";
  std::string isa;  // empty = the best one
  uint64_t seed = 1;
};

// Measures prefill (one chunk that ends at the context) and decode (one token for each of `batch` sequences at the
// context), and writes one CSV line each: the median of the rounds. Caches are overwritten before
// every round. INVALID_ARGUMENT, RESOURCE_EXHAUSTED: nothing was measured.
absl::Status RunEngineBench(const EngineBenchSettings& settings, std::ostream& csv);

}  // namespace longshelf::bench
