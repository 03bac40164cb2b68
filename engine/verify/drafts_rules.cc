#include "drafts_rules.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace longshelf::engine {

bool DraftedTokens::SameBefore(int64_t i) const {
  const int64_t first = i / n_each * n_each;
  return std::equal(ours.begin() + first, ours.begin() + i, reference.begin() + first);
}

int64_t DraftedTokens::CountEqual() const {
  int64_t n = 0;
  for (size_t i = 0; i < ours.size(); ++i) n += ours[i] == reference[i] ? 1 : 0;
  return n;
}

ConfidenceFigures CompareConfidence(std::span<const float> ours, std::span<const float> reference,
                                    const DraftedTokens& tokens) {
  LONGSHELF_CHECK(ours.size() == reference.size() && ours.size() == tokens.ours.size());
  ConfidenceFigures figures;
  for (size_t i = 0; i < ours.size(); ++i) {
    if (!tokens.SameBefore(static_cast<int64_t>(i))) continue;
    const double difference = std::abs(static_cast<double>(ours[i]) - static_cast<double>(reference[i]));
    // What is no number is infinitely far.
    const double far = std::isfinite(difference) ? difference : HUGE_VAL;
    figures.absolute.push_back(far);
    figures.scaled.push_back(far / std::max(1.0, std::abs(static_cast<double>(reference[i]))));
  }
  return figures;
}

void JudgeDraftFp32(const ConfidenceFigures& confidence, const DraftedTokens& tokens, Report& report) {
  const auto n = static_cast<int64_t>(confidence.scaled.size());
  const int64_t n_close = CountWithin(confidence.scaled, 1e-3);
  report.Check("draft.confidence within 1e-3", n > 0 && AtLeast(n_close, n, 990),
               absl::StrCat(ShareOf(n_close, n), " (limit 99 %), max ", Figure(Quantile(confidence.scaled, 1.0))));
  const auto n_tokens = static_cast<int64_t>(tokens.ours.size());
  report.Check("draft.tokens equal", AtLeast(tokens.CountEqual(), n_tokens, 980),
               absl::StrCat(ShareOf(tokens.CountEqual(), n_tokens), " (limit 98 %)"));
}

void JudgeDraftNative(const ConfidenceFigures& confidence, bool is_short, double floor, Report& report) {
  const double value = is_short ? Quantile(confidence.absolute, 1.0) : Median(confidence.absolute);
  report.Check(is_short ? "draft.confidence max difference" : "draft.confidence median difference",
               !confidence.absolute.empty() && value <= 2.0 * floor,
               absl::StrCat(Figure(value), " (limit ", Figure(2.0 * floor), " = 2 x floor)"));
}

void JudgeMainHidden(const RowComparison& rows, Report& report) {
  report.Check("main_hidden", AtMost(rows.CountDiffering(), rows.size(), 50),
               absl::StrCat(ShareOf(rows.CountDiffering(), rows.size()), " rows differ (limit 5 %)"));
}

void JudgeProjection(const std::string& name, const RowComparison& rows, double max, Report& report) {
  const int64_t n_close = CountWithin(rows.rel, 3e-4);
  const double worst = Quantile(rows.rel, 1.0);
  report.Check(name, AtLeast(n_close, rows.size(), 800) && worst <= max,
               absl::StrCat(ShareOf(n_close, rows.size()), " rows within rel 3e-4 (limit 80 %), max ", Figure(worst),
                            " (", Figure(max), ")"));
}

void JudgeStage(const std::string& name, const RowComparison& rows, Report& report) {
  const double median = Median(rows.rel);
  const double max = Quantile(rows.rel, 1.0);
  report.Check(name, median <= 2e-2 && max <= 0.6,
               absl::StrCat("median rel ", Figure(median), " (limit 2e-2), max ", Figure(max), " (0.6)"));
}

void JudgeChosenAlone(const DraftedTokens& tokens, Report& report) {
  const auto n = static_cast<int64_t>(tokens.ours.size());
  report.Check("draft.tokens alone", AtLeast(tokens.CountEqual(), n, 950),
               absl::StrCat(ShareOf(tokens.CountEqual(), n), " equal (limit 95 %)"));
}

void JudgeConfidenceAlone(const ConfidenceFigures& confidence, Report& report) {
  const auto n = static_cast<int64_t>(confidence.scaled.size());
  const int64_t n_close = CountWithin(confidence.scaled, 1e-4);
  const double max = Quantile(confidence.scaled, 1.0);
  report.Check("draft.confidence alone", AtLeast(n_close, n, 800) && max <= 2e-2,
               absl::StrCat(ShareOf(n_close, n), " within 1e-4 (limit 80 %), max ", Figure(max), " (2e-2)"));
}

}  // namespace longshelf::engine
