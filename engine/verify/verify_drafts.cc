#include <algorithm>

#include "checks.h"
#include "common/status.h"
#include "drafts_rules.h"
#include "logits_rules.h"

namespace longshelf::engine {
namespace {

constexpr std::string_view kFloorPrefix = "floor_draft_";

// The rows at which all tokens before are the reference's.
std::vector<int64_t> ComparablePlaces(const DraftedTokens& tokens) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < static_cast<int64_t>(tokens.ours.size()); ++i) {
    if (tokens.SameBefore(i)) places.push_back(i);
  }
  return places;
}

LogitFigures Keep(const LogitFigures& all, const std::vector<int64_t>& rows) {
  LogitFigures kept;
  for (const int64_t row : rows) {
    const auto at = static_cast<size_t>(row);
    kept.rel.push_back(all.rel[at]);
    kept.kl.push_back(all.kl[at]);
    kept.top1_equal.push_back(all.top1_equal[at]);
  }
  return kept;
}

}  // namespace

absl::Status JudgeDraftRun(const Model& model, const Vectors& vectors, const DraftVectors& reference, bool is_short,
                           const SequenceOutput& ours, Report& report, Dump& dump) {
  const int64_t vocab = model.config().vocab_size;
  const int64_t n_each = model.config().dspark.block_size;
  const int64_t n = reference.n();
  dump.AddIntegers("draft.positions", reference.positions, {n});
  dump.AddFloats("draft.base_logits", ours.draft_base_logits, {n, n_each, vocab});
  dump.AddFloats("draft.logits", ours.draft_logits, {n, n_each, vocab});
  dump.AddIntegers("draft.tokens", {ours.draft_tokens.begin(), ours.draft_tokens.end()}, {n, n_each});
  dump.AddFloats("draft.confidence", ours.draft_confidence, {n, n_each});
  const DraftedTokens tokens{ours.draft_tokens, reference.tokens, n_each};
  const std::vector<int64_t> places = ComparablePlaces(tokens);
  const LogitFigures base = CompareLogits(ours.draft_base_logits, reference.base_logits, vocab);
  const LogitFigures logits = Keep(CompareLogits(ours.draft_logits, reference.logits, vocab), places);
  const ConfidenceFigures confidence = CompareConfidence(ours.draft_confidence, reference.confidence, tokens);
  if (model.numerics() == Numerics::kFp32) {
    JudgeFp32("draft.base_logits", base, report);
    JudgeFp32("draft.logits", logits, report);
    JudgeDraftFp32(confidence, tokens, report);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<double> floor,
                   vectors.MetadataNumbers(std::string(kFloorPrefix) + "confidence", 1));
  if (is_short) {
    ASSIGN_OR_RETURN(const std::vector<double> floors, ReadRowFloors(vectors, kFloorPrefix, 2 * base.n_rows()));
    const std::span<const double> of_rows = floors;
    JudgeShortNative("draft.base_logits", base, of_rows.first(base.rel.size()), report);
    std::vector<double> of_places;
    for (const int64_t place : places) of_places.push_back(floors[base.rel.size() + static_cast<size_t>(place)]);
    JudgeShortNative("draft.logits", logits, of_places, report);
  } else {
    ASSIGN_OR_RETURN(const NoiseFloor noise, ReadNoiseFloor(vectors, kFloorPrefix));
    JudgeLongNative("draft.base_logits", base, noise, report);
    JudgeLongNative("draft.logits", logits, noise, report);
  }
  JudgeDraftNative(confidence, is_short, floor.front(), report);
  report.Note("draft.tokens", ShareOf(tokens.CountEqual(), static_cast<int64_t>(tokens.ours.size())) + " equal");
  return absl::OkStatus();
}

}  // namespace longshelf::engine
