#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "drafts_rules.h"
#include "engine/model/dspark_parts.h"
#include "engine/model/sequence_memory.h"
#include "taps_rules.h"

namespace longshelf::engine {
namespace {

// Every part of a DSpark module alone on the reference's input.
class DraftTapsJudge {
 public:
  DraftTapsJudge(Model& model, const Vectors& vectors, int64_t n_tokens, const DraftVectors& reference, Report& report,
                 Dump& dump)
      : config_(model.config()),
        model_(model),
        parts_(model),
        vectors_(vectors),
        n_(n_tokens),
        n_each_(config_.dspark.block_size),
        reference_(reference),
        report_(report),
        dump_(dump) {}

  absl::Status Run() {
    RETURN_IF_ERROR(JudgeMain());
    RETURN_IF_ERROR(JudgeStages());
    return JudgeHeads();
  }

 private:
  std::vector<int64_t> block_shape() const { return {reference_.n(), n_each_, config_.hc_mult, config_.hidden_size}; }
  int64_t stream_width() const { return config_.hc_mult * config_.hidden_size; }

  // Ours is dumped under the name of what it is compared with.
  absl::StatusOr<RowComparison> Compare(const std::string& name, const std::vector<float>& ours,
                                        std::vector<int64_t> shape, int64_t cols) {
    dump_.AddBf16(name, ours, shape);
    ASSIGN_OR_RETURN(const std::vector<float> reference, vectors_.Floats(name, shape));
    return CompareRows(ours, reference, cols);
  }

  // What is read of the main model, then the window of every stage.
  absl::Status JudgeMain() {
    const int64_t d = config_.hidden_size;
    std::vector<std::vector<float>> targets;
    for (const int64_t layer : config_.dspark.target_layers) {
      ASSIGN_OR_RETURN(std::vector<float> streams,
                       vectors_.Floats(absl::StrCat("x.", layer + 1), {n_, config_.hc_mult, d}));
      targets.push_back(std::move(streams));
    }
    const int64_t hidden_width = static_cast<int64_t>(targets.size()) * d;
    ASSIGN_OR_RETURN(const RowComparison hidden,
                     Compare("main_hidden", parts_.MainHidden(targets, n_), {n_, hidden_width}, hidden_width));
    JudgeMainHidden(hidden, report_);
    ASSIGN_OR_RETURN(const std::vector<float> main_hidden, vectors_.Floats("main_hidden", {n_, hidden_width}));
    ASSIGN_OR_RETURN(const RowComparison x, Compare("main_x", parts_.MainX(main_hidden, n_), {n_, d}, d));
    JudgeProjection("main_x", x, 5e-2, report_);
    ASSIGN_OR_RETURN(main_x_, vectors_.Floats("main_x", {n_, d}));
    SequenceMemory memory(model_.layout(), 0);
    parts_.Store(main_x_, 0, n_, memory.state());
    for (int64_t stage = 0; stage < config_.dspark.n_stages; ++stage) {
      const std::string name = absl::StrCat("cache.mtp.", stage, ".window");
      ASSIGN_OR_RETURN(const RowComparison rows,
                       Compare(name, parts_.Window(stage, memory.state(), n_),
                               {std::min(n_, config_.window), config_.head_dim}, config_.head_dim));
      JudgeCache(name, rows, RuleOfCache("window"), report_);
    }
    return absl::OkStatus();
  }

  absl::Status JudgeStages() {
    std::vector<float> embedded;
    for (const uint32_t token : reference_.next) {
      const std::vector<float> block = parts_.EmbedBlock(token);
      embedded.insert(embedded.end(), block.begin(), block.end());
    }
    ASSIGN_OR_RETURN(const RowComparison first, Compare("draft.x.0", embedded, block_shape(), stream_width()));
    report_.Check("draft.x.0", first.CountDiffering() == 0,
                  absl::StrCat(first.CountDiffering(), " of ", first.size(), " places differ (limit 0)"));
    for (int64_t stage = 0; stage < config_.dspark.n_stages; ++stage) {
      ASSIGN_OR_RETURN(const std::vector<float> input, vectors_.Floats(absl::StrCat("draft.x.", stage), block_shape()));
      ASSIGN_OR_RETURN(const std::vector<float> ours, RunStage(stage, input));
      const std::string name = absl::StrCat("draft.x.", stage + 1);
      ASSIGN_OR_RETURN(const RowComparison rows, Compare(name, ours, block_shape(), stream_width()));
      JudgeStage(absl::StrCat(name, " (stage ", stage, " alone)"), rows, report_);
    }
    return absl::OkStatus();
  }

  // One stage on every block, each with the window of its position.
  absl::StatusOr<std::vector<float>> RunStage(int64_t stage, const std::vector<float>& input) {
    std::vector<float> out;
    const auto block_values = static_cast<size_t>(n_each_ * stream_width());
    for (size_t i = 0; i < reference_.positions.size(); ++i) {
      const int64_t position = reference_.positions[i];
      const int64_t first = std::max<int64_t>(position - config_.window + 1, 0);
      SequenceMemory memory(model_.layout(), 0);
      parts_.Store(std::span(main_x_).subspan(static_cast<size_t>(first * config_.hidden_size)), first,
                   position + 1 - first, memory.state());
      ASSIGN_OR_RETURN(
          const std::vector<float> block,
          parts_.RunStage(stage, position, memory.state(), std::span(input).subspan(i * block_values, block_values)));
      out.insert(out.end(), block.begin(), block.end());
    }
    return out;
  }

  absl::Status JudgeHeads() {
    const int64_t n_places = reference_.n() * n_each_;
    const int64_t vocab = config_.vocab_size;
    ASSIGN_OR_RETURN(const std::vector<float> streams,
                     vectors_.Floats(absl::StrCat("draft.x.", config_.dspark.n_stages), block_shape()));
    const std::vector<int64_t> hidden_shape = {reference_.n(), n_each_, config_.hidden_size};
    ASSIGN_OR_RETURN(const RowComparison rows,
                     Compare("draft.hidden", parts_.Hidden(streams, n_places), hidden_shape, config_.hidden_size));
    JudgeProjection("draft.hidden", rows, 1e-2, report_);
    ASSIGN_OR_RETURN(const std::vector<float> hidden, vectors_.Floats("draft.hidden", hidden_shape));
    const std::vector<float> base = parts_.BaseLogits(hidden, n_places);
    dump_.AddFloats("draft.base_logits", base, {reference_.n(), n_each_, vocab});
    JudgeHead("draft.base_logits alone", CompareRows(base, reference_.base_logits, vocab), report_);
    const std::vector<float> logits = parts_.Logits(reference_.base_logits, reference_.before);
    dump_.AddFloats("draft.logits", logits, {reference_.n(), n_each_, vocab});
    JudgeHead("draft.logits alone", CompareRows(logits, reference_.logits, vocab), report_);
    std::vector<uint32_t> chosen;
    for (int64_t i = 0; i < n_places; ++i) {
      const auto row = logits.begin() + i * vocab;
      chosen.push_back(static_cast<uint32_t>(std::max_element(row, row + vocab) - row));
    }
    JudgeChosenAlone({chosen, reference_.tokens, n_each_}, report_);
    const std::vector<float> confidence = parts_.Confidence(hidden, reference_.before);
    dump_.AddFloats("draft.confidence", confidence, {reference_.n(), n_each_});
    // All of it is computed from the reference's tokens.
    const DraftedTokens same{reference_.tokens, reference_.tokens, n_each_};
    JudgeConfidenceAlone(CompareConfidence(confidence, reference_.confidence, same), report_);
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  Model& model_;
  DsparkParts parts_;
  const Vectors& vectors_;
  const int64_t n_;
  const int64_t n_each_;
  const DraftVectors& reference_;
  Report& report_;
  Dump& dump_;
  std::vector<float> main_x_;
};

}  // namespace

absl::Status VerifyDraftTaps(Model& model, const Vectors& vectors, const std::vector<uint32_t>& tokens, Report& report,
                             Dump& dump) {
  ASSIGN_OR_RETURN(const DraftVectors reference, ReadDraftVectors(vectors, model.config(), tokens));
  return DraftTapsJudge(model, vectors, static_cast<int64_t>(tokens.size()), reference, report, dump).Run();
}

}  // namespace longshelf::engine
