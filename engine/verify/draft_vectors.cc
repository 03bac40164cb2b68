#include "draft_vectors.h"

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::engine {

absl::StatusOr<DraftVectors> ReadDraftVectors(const Vectors& vectors, const ModelConfig& config,
                                              const std::vector<uint32_t>& tokens) {
  DraftVectors out;
  ASSIGN_OR_RETURN(out.positions, vectors.Integers("draft.positions", {-1}));
  const bool ascends =
      std::adjacent_find(out.positions.begin(), out.positions.end(), std::greater_equal<>()) == out.positions.end();
  if (out.positions.empty() || !ascends || out.positions.front() < 0 ||
      out.positions.back() + 1 >= static_cast<int64_t>(tokens.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"draft.positions\" must have positions in ascending order, each followed by one of the "
                     "file's ",
                     tokens.size(), " tokens"));
  }
  const int64_t n = out.n();
  const int64_t n_each = config.dspark.block_size;
  const int64_t vocab = config.vocab_size;
  ASSIGN_OR_RETURN(out.base_logits, vectors.Floats("draft.base_logits", {n, n_each, vocab}));
  ASSIGN_OR_RETURN(out.logits, vectors.Floats("draft.logits", {n, n_each, vocab}));
  ASSIGN_OR_RETURN(out.confidence, vectors.Floats("draft.confidence", {n, n_each}));
  ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, vectors.Integers("draft.tokens", {n, n_each}));
  for (const int64_t token : chosen) {
    if (token < 0 || token >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"draft.tokens\": ", token, " is outside the vocabulary of ", vocab));
    }
    const auto place = static_cast<int64_t>(out.tokens.size());
    if (place % n_each == 0) {
      out.next.push_back(tokens[static_cast<size_t>(out.positions[static_cast<size_t>(place / n_each)] + 1)]);
      out.before.push_back(out.next.back());
    } else {
      out.before.push_back(out.tokens.back());
    }
    out.tokens.push_back(static_cast<uint32_t>(token));
  }
  return out;
}

}  // namespace longshelf::engine
