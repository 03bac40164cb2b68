#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace longshelf::bench {

struct LongPrefillSettings {
  std::string model;                                 // checkpoint directory
  int64_t n_context = 1 << 20;                       // tokens in the end, prompt and output
  int64_t n_decode = 8;                              // the last ones, decoded one by one
  std::vector<std::string> chunks = {"512", "768"};  // tokens of a prefill chunk, one pass over the context for each
  std::string isa;                                   // empty = the best one
  uint64_t seed = 1;
};

// Computes every token of a long context once per chunking, without any cache, each chunking on a thread of its own.
// Compares, by memcmp with the first chunking's: the logits of the last prompt token and of every decoded one, all KV
// blocks, and the exported state. One CSV line per chunking; progress goes to `log`. DATA_LOSS: bits differ, and where.
absl::Status RunLongPrefill(const LongPrefillSettings& settings, std::ostream& csv, std::ostream& log);

}  // namespace longshelf::bench
