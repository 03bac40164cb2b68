#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/model/model.h"
#include "model_impl.h"
#include "select.h"

namespace longshelf::engine {
namespace {

absl::Status CheckRequest(const DraftRequest& request, std::span<const KeptChunk> chunks, int64_t n_draft_max,
                          int64_t vocab_size) {
  if (request.chunk >= chunks.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("draft request for chunk ", request.chunk, "; the last step had ", chunks.size()));
  }
  const KeptChunk& chunk = chunks[request.chunk];
  if (chunk.guess) {
    return absl::InvalidArgumentError(absl::StrCat("two draft requests for chunk ", request.chunk));
  }
  const int64_t n_rows = chunk.rows->n_rows;
  const int64_t least = std::max<int64_t>(n_rows - n_draft_max, 1);
  if (request.n_kept < least || request.n_kept > n_rows) {
    return absl::InvalidArgumentError(absl::StrCat("draft request for chunk ", request.chunk, ": n_kept is ",
                                                   request.n_kept, ", must be ", least, " to ", n_rows));
  }
  if (request.next_token >= vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("draft request for chunk ", request.chunk, ": next_token ",
                                                   request.next_token, " is outside the vocabulary of ", vocab_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Model::Impl::KeepChunks(std::span<const DraftRequest> requests, int64_t n_tokens) {
  if (drafter == nullptr) return absl::FailedPreconditionError("this model has no drafter");
  if (streams == nullptr) return absl::FailedPreconditionError("Draft() comes once after each Forward()");
  if (n_tokens < 0 || n_tokens > drafter->n_draft()) {
    return absl::InvalidArgumentError(
        absl::StrCat("draft of ", n_tokens, " tokens; this drafter guesses 0 to ", drafter->n_draft()));
  }
  kept.clear();
  for (const SequenceRows& rows : step.parts()) kept.push_back({&rows, rows.n_rows, false, 0});
  for (const DraftRequest& request : requests) {
    if (absl::Status s = CheckRequest(request, kept, layout.n_draft_max(), config.vocab_size); !s.ok()) return s;
    KeptChunk& chunk = kept[request.chunk];
    chunk = {chunk.rows, request.n_kept, true, request.next_token};
  }
  return absl::OkStatus();
}

absl::StatusOr<DraftOutput> Model::Draft(std::span<const DraftRequest> requests, int64_t n_tokens, TapSink* taps) {
  Impl& m = *impl_;
  const FlushDenormals flush;
  if (absl::Status s = m.KeepChunks(requests, n_tokens); !s.ok()) return s;
  const size_t n = requests.size() * static_cast<size_t>(n_tokens);
  for (Guesses* guesses : {&m.guesses, &m.answers}) {
    guesses->tokens.resize(n);
    guesses->confidence.resize(n);
  }
  const float* streams = std::exchange(m.streams, nullptr);
  const Workspace::Scope scope(m.ops.memory());
  if (absl::Status s = m.drafter->Draft(m.step, streams, m.kept, n_tokens, m.guesses, taps); !s.ok()) return s;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto row = std::count_if(m.kept.begin(), m.kept.begin() + static_cast<std::ptrdiff_t>(requests[i].chunk),
                                   [](const KeptChunk& chunk) { return chunk.guess; });
    std::copy_n(m.guesses.tokens.begin() + row * n_tokens, n_tokens,
                m.answers.tokens.begin() + static_cast<std::ptrdiff_t>(i) * n_tokens);
    std::copy_n(m.guesses.confidence.begin() + row * n_tokens, n_tokens,
                m.answers.confidence.begin() + static_cast<std::ptrdiff_t>(i) * n_tokens);
  }
  return DraftOutput{n_tokens, m.answers.tokens, m.answers.confidence};
}

}  // namespace longshelf::engine
