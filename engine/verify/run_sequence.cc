#include "run_sequence.h"

#include <algorithm>

#include "collector.h"
#include "common/status.h"
#include "engine/model/sequence_memory.h"

namespace longshelf::engine {
namespace {

class SequenceRun {
 public:
  SequenceRun(Model& model, const std::vector<uint32_t>& tokens, const AskedPositions& asked)
      : model_(model),
        tokens_(tokens),
        asked_(asked),
        vocab_(static_cast<size_t>(model.config().vocab_size)),
        memory_(model.layout(), n()),
        row_of_(tokens.size(), -1) {
    for (size_t i = 0; i < asked.logits.size(); ++i) {
      row_of_[static_cast<size_t>(asked.logits[i])] = static_cast<int64_t>(i);
    }
    output_.logits.resize(asked.logits.size() * vocab_);
  }

  int64_t n() const { return static_cast<int64_t>(tokens_.size()); }

  // The chunk that begins at `begin`; returns where it ends.
  absl::StatusOr<int64_t> Step(int64_t begin, int64_t n_tokens_max) {
    int64_t end = std::min(begin + n_tokens_max, n());
    const bool drafts = next_draft_ < asked_.drafts.size() && asked_.drafts[next_draft_] < end;
    if (drafts) end = asked_.drafts[next_draft_] + 1;
    const auto piece = std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    const bool wanted =
        std::any_of(row_of_.begin() + begin, row_of_.begin() + end, [](int64_t row) { return row >= 0; });
    ForwardBatch batch;
    batch.chunks.push_back(memory_.Chunk(begin, piece, wanted ? WantLogits::kAll : WantLogits::kNone));
    ASSIGN_OR_RETURN(const ForwardOutput out, model_.Forward(batch));
    for (int64_t i = 0; i < out.n_rows; ++i) {
      const int64_t row = row_of_[static_cast<size_t>(begin + i)];
      if (row < 0) continue;
      std::copy_n(out.logits.data() + static_cast<size_t>(i) * vocab_, vocab_,
                  output_.logits.data() + static_cast<size_t>(row) * vocab_);
    }
    if (model_.n_draft() > 0) RETURN_IF_ERROR(Draft(drafts, begin, end));
    return end;
  }

  SequenceOutput TakeOutput() {
    output_.draft_base_logits = taps_.Values("draft.base_logits");
    output_.draft_logits = taps_.Values("draft.logits");
    return std::move(output_);
  }

 private:
  absl::Status Draft(bool guess, int64_t begin, int64_t end) {
    std::vector<DraftRequest> requests;
    if (guess) requests.push_back({0, end - begin, tokens_[static_cast<size_t>(end)]});
    ASSIGN_OR_RETURN(const DraftOutput out, model_.Draft(requests, guess ? asked_.n_draft : 0, &taps_));
    output_.draft_tokens.insert(output_.draft_tokens.end(), out.tokens.begin(), out.tokens.end());
    output_.draft_confidence.insert(output_.draft_confidence.end(), out.confidence.begin(), out.confidence.end());
    if (guess) ++next_draft_;
    return absl::OkStatus();
  }

  Model& model_;
  const std::vector<uint32_t>& tokens_;
  const AskedPositions& asked_;
  const size_t vocab_;
  SequenceMemory memory_;
  std::vector<int64_t> row_of_;  // of the logits, per position; -1 = not asked for
  size_t next_draft_ = 0;
  Collector taps_;
  SequenceOutput output_;
};

}  // namespace

absl::StatusOr<SequenceOutput> RunSequence(Model& model, const std::vector<uint32_t>& tokens,
                                           const AskedPositions& asked, const VerifyOptions& options) {
  SequenceRun run(model, tokens, asked);
  for (int64_t begin = 0; begin < run.n();) {
    ASSIGN_OR_RETURN(begin, run.Step(begin, options.chunk_tokens));
    if (options.progress) {
      options.progress("computing", static_cast<double>(begin) / static_cast<double>(run.n()));
    }
  }
  return run.TakeOutput();
}

}  // namespace longshelf::engine
