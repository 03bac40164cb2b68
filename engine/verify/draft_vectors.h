#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "vectors.h"

namespace longshelf::engine {

// What a file says of a DSpark module's blocks: after position p the block stands at p + 1 .. p + B.
struct DraftVectors {
  std::vector<int64_t> positions;  // [n], ascending
  std::vector<float> base_logits;  // [n * B, vocab]
  std::vector<float> logits;       // [n * B, vocab]
  std::vector<uint32_t> tokens;    // [n, B]
  std::vector<float> confidence;   // [n, B]
  std::vector<uint32_t> next;      // [n]: the token at p + 1
  std::vector<uint32_t> before;    // [n, B]: the token before each place, by the reference

  int64_t n() const { return static_cast<int64_t>(positions.size()); }
};

// INVALID_ARGUMENT: a tensor is missing or does not fit the model, a position has no token after it.
absl::StatusOr<DraftVectors> ReadDraftVectors(const Vectors& vectors, const ModelConfig& config,
                                              const std::vector<uint32_t>& tokens);

}  // namespace longshelf::engine
