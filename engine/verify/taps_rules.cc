#include "taps_rules.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {
namespace {

bool AllEqual(const RowComparison& rows, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (!rows.equal[static_cast<size_t>(i)]) return false;
  }
  return true;
}

// Two may always.
constexpr int64_t kAlwaysMay = 2;
bool MayDiffer(int64_t differing, int64_t n, int64_t permille) {
  return differing <= kAlwaysMay || AtMost(differing, n, permille);
}
std::string DifferenceLimit(int64_t n, int64_t permille) {
  return absl::StrCat("(limit ", std::max(kAlwaysMay, n * permille / 1000), ")");
}

std::vector<int64_t> Sorted(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

CacheRule RuleOfCache(std::string_view tensor) {
  if (tensor == "entries") return {200, 5e-2};
  if (tensor == "index_keys") return {100, 0.15};
  return {30, 5e-2};
}

void JudgeCache(const std::string& name, const RowComparison& rows, CacheRule rule, Report& report) {
  const int64_t differing = rows.CountDiffering();
  const double worst = Quantile(rows.rel, 1.0);
  report.Check(
      name, MayDiffer(differing, rows.size(), rule.permille) && worst <= rule.rel,
      absl::StrCat(differing, " of ", rows.size(), " rows differ ", DifferenceLimit(rows.size(), rule.permille),
                   ", max rel ", Figure(worst), " (limit ", Figure(rule.rel), ")"));
}

bool StoredRows::SeesOnlyEqual(int64_t position) const {
  return AllEqual(rows, std::max<int64_t>(position - window + 1, 0), position + 1) &&
         AllEqual(entries, 0, std::min(Visible(position), entries.size())) && SeesEqualKeys(position);
}

bool StoredRows::SeesEqualKeys(int64_t position) const {
  return AllEqual(index_keys, 0, std::min(Visible(position), index_keys.size()));
}

bool JudgeCleanPositions(const std::string& name, const RowComparison& streams, const StoredRows& stored,
                         Report& report) {
  std::vector<double> rel;
  for (int64_t p = 0; p < std::min(streams.size(), kWindowStart); ++p) {
    if (stored.SeesOnlyEqual(p)) rel.push_back(streams.rel[static_cast<size_t>(p)]);
  }
  const auto n = static_cast<int64_t>(rel.size());
  if (n < kCleanPositions) {
    report.Note(name, absl::StrCat("only ", n, " positions where nothing differs yet; not judged"));
    return false;
  }
  const int64_t n_close = CountWithin(rel, 3e-4);
  report.Check(name, AtLeast(n_close, n, 800),
               absl::StrCat(ShareOf(n_close, n), " positions where nothing differs yet within rel 3e-4 (limit 80 %)"));
  return true;
}

void JudgeAllPositions(const std::string& name, const RowComparison& streams, const std::string& floor,
                       Report& report) {
  const double median = Median(streams.rel);
  const double p97 = Quantile(streams.rel, 0.97);
  const double max = Quantile(streams.rel, 1.0);
  report.Check(name, median <= 2e-2 && AtLeast(CountWithin(streams.rel, 6e-2), streams.size(), 970) && max <= 0.6,
               absl::StrCat("median rel ", Figure(median), " (limit 2e-2), 97 % ", Figure(p97), " (6e-2), max ",
                            Figure(max), " (0.6); reference against itself: ", floor));
}

void JudgeIndexer(const std::string& name, const std::vector<std::vector<int64_t>>& chosen,
                  const std::vector<std::vector<int64_t>>& reference, const StoredRows& stored, int64_t top_k,
                  Report& report) {
  int64_t n = 0;
  int64_t n_other = 0;
  for (size_t p = 0; p < reference.size(); ++p) {
    const auto position = static_cast<int64_t>(p);
    if (stored.Visible(position) <= top_k || !stored.SeesEqualKeys(position)) continue;
    ++n;
    if (Sorted(chosen[p]) != Sorted(reference[p])) ++n_other;
  }
  if (n == 0) {
    report.NotJudged(name,
                     absl::StrCat("no position sees more than ", top_k, " entries, all with bit-equal index keys"));
    return;
  }
  report.Check(name, MayDiffer(n_other, n, 20),
               absl::StrCat("other entries at ", n_other, " of ", n, " positions with equal index keys ",
                            DifferenceLimit(n, 20)));
}

void JudgeCleanLayers(int64_t n_judged, int64_t n_layers, Report& report) {
  report.Check("layers with enough positions where nothing differs yet", 3 * n_judged >= n_layers,
               absl::StrCat(n_judged, " of ", n_layers, " (limit a third)"));
}

void JudgeHead(const std::string& name, const RowComparison& logits, Report& report) {
  const int64_t n_close = CountWithin(logits.rel, 1e-5);
  const double max = Quantile(logits.rel, 1.0);
  report.Check(name, AtLeast(n_close, logits.size(), 800) && max <= 1e-2,
               absl::StrCat(ShareOf(n_close, logits.size()), " rows within rel 1e-5 (limit 80 %), max ", Figure(max),
                            " (1e-2)"));
}

}  // namespace longshelf::engine
