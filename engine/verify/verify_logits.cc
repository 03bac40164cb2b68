#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "logits_rules.h"
#include "run_sequence.h"

namespace longshelf::engine {
namespace {

constexpr std::string_view kFloorPrefix = "floor_";

}  // namespace

absl::Status VerifyLogits(Model& model, const Vectors& vectors, const VerifyOptions& options, Report& report,
                          Dump& dump) {
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, ReadTokens(vectors, config));
  ASSIGN_OR_RETURN(const std::vector<int64_t> positions, vectors.Integers("positions", {-1}));
  const auto n_positions = static_cast<int64_t>(positions.size());
  if (positions.empty()) return absl::InvalidArgumentError("tensor \"positions\" is empty; nothing to compare");
  std::vector<int64_t> slots;  // of the MTP layer: positions that another token follows
  AskedPositions asked;
  asked.logits = positions;
  for (const int64_t p : positions) {
    if (p < 0 || p >= static_cast<int64_t>(tokens.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("position ", p, " is outside the file's ", tokens.size(), " tokens"));
    }
    if (p + 1 < static_cast<int64_t>(tokens.size())) slots.push_back(p);
  }
  ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats("logits", {n_positions, config.vocab_size}));
  const auto n_mtp = static_cast<int64_t>(slots.size());
  const bool with_mtp = vectors.Has("mtp_logits");
  std::vector<float> mtp_reference;
  if (with_mtp) {
    if (config.n_mtp_layers == 0) {
      return absl::InvalidArgumentError("the vectors file has mtp_logits, and this model has no MTP layer");
    }
    ASSIGN_OR_RETURN(mtp_reference, vectors.Floats("mtp_logits", {n_mtp, config.vocab_size}));
    if (!std::is_sorted(slots.begin(), slots.end())) {
      return absl::InvalidArgumentError("tensor \"positions\" must be ascending in a file with mtp_logits");
    }
    asked.drafts = slots;
    asked.n_draft = 1;
  }
  const bool with_blocks = model.n_draft() > 0 && config.dspark.n_stages > 0;
  DraftVectors blocks;
  if (with_blocks) {
    ASSIGN_OR_RETURN(blocks, ReadDraftVectors(vectors, config, tokens));
    asked.drafts = blocks.positions;
    asked.n_draft = config.dspark.block_size;
  }
  ASSIGN_OR_RETURN(const SequenceOutput ours, RunSequence(model, tokens, asked, options));
  dump.AddIntegers("tokens", {tokens.begin(), tokens.end()}, {static_cast<int64_t>(tokens.size())});
  dump.AddIntegers("positions", positions, {n_positions});
  dump.AddFloats("logits", ours.logits, {n_positions, config.vocab_size});
  if (with_mtp) dump.AddFloats("mtp_logits", ours.draft_logits, {n_mtp, config.vocab_size});

  const LogitFigures logits = CompareLogits(ours.logits, reference, config.vocab_size);
  LogitFigures mtp;
  if (with_mtp) mtp = CompareLogits(ours.draft_logits, mtp_reference, config.vocab_size);
  if (model.numerics() == Numerics::kFp32) {
    JudgeFp32("logits", logits, report);
    if (with_mtp) JudgeFp32("mtp_logits", mtp, report);
  } else if (static_cast<int64_t>(tokens.size()) <= kShortFileTokens) {
    ASSIGN_OR_RETURN(const std::vector<double> floors,
                     ReadRowFloors(vectors, kFloorPrefix, logits.n_rows() + mtp.n_rows()));
    const std::span<const double> of_rows = floors;
    JudgeShortNative("logits", logits, of_rows.first(logits.rel.size()), report);
    JudgeShortNative("mtp_logits", mtp, of_rows.subspan(logits.rel.size()), report);
  } else {
    ASSIGN_OR_RETURN(const NoiseFloor floor, ReadNoiseFloor(vectors, kFloorPrefix));
    JudgeLongNative("logits", logits, floor, report);
    if (with_mtp) JudgeLongNative("mtp_logits", mtp, floor, report);
  }
  if (!with_blocks) return absl::OkStatus();
  const bool is_short = static_cast<int64_t>(tokens.size()) <= kShortFileTokens;
  return JudgeDraftRun(model, vectors, blocks, is_short, ours, report, dump);
}

}  // namespace longshelf::engine
