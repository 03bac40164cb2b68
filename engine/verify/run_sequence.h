#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model.h"
#include "engine/verify/verify.h"

namespace longshelf::engine {

// Where in a sequence something is asked of the model.
struct AskedPositions {
  std::vector<int64_t> logits;  // any order
  std::vector<int64_t> drafts;  // ascending, each followed by another token
  int64_t n_draft = 0;          // tokens to guess at each of them
};

struct SequenceOutput {
  std::vector<float> logits;             // [logits positions, vocab]
  std::vector<float> draft_base_logits;  // [draft positions * n_draft, vocab]; DSpark
  std::vector<float> draft_logits;       // [draft positions * n_draft, vocab]
  std::vector<uint32_t> draft_tokens;    // [draft positions, n_draft]
  std::vector<float> draft_confidence;   // the same
};

// Runs a whole sequence as it is served: in chunks, of which one ends at every position where tokens are guessed.
absl::StatusOr<SequenceOutput> RunSequence(Model& model, const std::vector<uint32_t>& tokens,
                                           const AskedPositions& asked, const VerifyOptions& options);

}  // namespace longshelf::engine
