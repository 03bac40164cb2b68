#include "taps_rules.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {
namespace {

bool AllEqual(const RowComparison& rows, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (!rows.equal[static_cast<size_t>(i)]) return false;
  }
  return true;
}

double ShareWithin(const std::vector<double>& rel, double limit) {
  if (rel.empty()) return 1.0;
  const auto n = std::count_if(rel.begin(), rel.end(), [&](double r) { return r <= limit; });
  return static_cast<double>(n) / static_cast<double>(rel.size());
}

}  // namespace

int64_t RowComparison::CountDiffering() const { return std::count(equal.begin(), equal.end(), false); }

RowComparison CompareRows(const std::vector<float>& ours, const std::vector<float>& reference, int64_t cols) {
  RowComparison out;
  for (size_t at = 0; at < reference.size(); at += static_cast<size_t>(cols)) {
    double difference = 0.0;
    double norm = 0.0;
    bool equal = true;
    for (size_t i = at; i < at + static_cast<size_t>(cols); ++i) {
      const double d = static_cast<double>(ours[i]) - static_cast<double>(reference[i]);
      equal = equal && ours[i] == reference[i];
      difference += d * d;
      norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
    }
    const double r = std::sqrt(difference) / std::sqrt(std::max(norm, 1e-300));
    out.equal.push_back(equal);
    out.rel.push_back(std::isfinite(r) ? r : HUGE_VAL);
  }
  return out;
}

CacheRule RuleOfCache(std::string_view tensor) {
  if (tensor == "entries") return {0.20, 5e-2};
  if (tensor == "index_keys") return {0.10, 0.15};
  return {0.03, 5e-2};
}

void JudgeCache(const std::string& name, const RowComparison& rows, CacheRule rule, Report& report) {
  const int64_t differing = rows.CountDiffering();
  const auto allowed = std::max(kCacheRowsAlways, static_cast<int64_t>(rule.share * static_cast<double>(rows.size())));
  const double worst = Quantile(rows.rel, 1.0);
  report.Check(name, differing <= allowed && worst <= rule.rel,
               absl::StrCat(differing, " of ", rows.size(), " rows differ (limit ", allowed, "), max rel ",
                            Figure(worst), " (limit ", Figure(rule.rel), ")"));
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
  const double share = ShareWithin(rel, 3e-4);
  report.Check(
      name, share >= 0.80,
      absl::StrCat(Percent(share), " within rel 3e-4 (limit 80 %) of ", n, " positions where nothing differs"));
  return true;
}

void JudgeAllPositions(const std::string& name, const RowComparison& streams, const std::string& floor,
                       Report& report) {
  const double median = Quantile(streams.rel, 0.5);
  const double p97 = Quantile(streams.rel, 0.97);
  const double max = Quantile(streams.rel, 1.0);
  report.Check(name, median <= 2e-2 && p97 <= 6e-2 && max <= 0.6,
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
    const std::set<int64_t> a(chosen[p].begin(), chosen[p].end());
    const std::set<int64_t> b(reference[p].begin(), reference[p].end());
    if (a != b) ++n_other;
  }
  const auto allowed = std::max<int64_t>(2, static_cast<int64_t>(0.02 * static_cast<double>(n)));
  report.Check(
      name, n_other <= allowed,
      absl::StrCat("other entries at ", n_other, " of ", n, " positions with equal index keys (limit ", allowed, ")"));
}

void JudgeHead(const RowComparison& logits, Report& report) {
  const double share = ShareWithin(logits.rel, 1e-5);
  const double max = Quantile(logits.rel, 1.0);
  report.Check("head alone", share >= 0.80 && max <= 1e-2,
               absl::StrCat(Percent(share), " of rows within rel 1e-5 (limit 80 %), max ", Figure(max), " (1e-2)"));
}

}  // namespace longshelf::engine
