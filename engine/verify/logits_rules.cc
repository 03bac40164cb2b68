#include "logits_rules.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "comparison.h"

namespace longshelf::engine {
namespace {

std::vector<double> LogSoftmax(std::span<const float> x) {
  const double max = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  for (const float v : x) sum += std::exp(static_cast<double>(v) - max);
  std::vector<double> out;
  out.reserve(x.size());
  for (const float v : x) out.push_back(static_cast<double>(v) - max - std::log(sum));
  return out;
}

double Divergence(std::span<const float> ours, std::span<const float> reference) {
  const std::vector<double> p = LogSoftmax(reference);
  const std::vector<double> q = LogSoftmax(ours);
  double kl = 0.0;
  for (size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
  return std::isfinite(kl) ? kl : HUGE_VAL;
}

// On ties the lower index.
int64_t Top1(std::span<const float> x) { return std::max_element(x.begin(), x.end()) - x.begin(); }

}  // namespace

LogitFigures CompareLogits(std::span<const float> ours, std::span<const float> reference, int64_t vocab) {
  const auto width = static_cast<size_t>(vocab);
  LONGSHELF_CHECK(ours.size() == reference.size() && reference.size() % width == 0);
  LogitFigures figures;
  for (size_t at = 0; at < reference.size(); at += width) {
    const std::span<const float> a = ours.subspan(at, width);
    const std::span<const float> b = reference.subspan(at, width);
    figures.rel.push_back(RelativeError(a, b));
    figures.kl.push_back(Divergence(a, b));
    figures.top1_equal.push_back(Top1(a) == Top1(b));
  }
  return figures;
}

absl::StatusOr<NoiseFloor> ReadNoiseFloor(const Vectors& vectors, std::string_view prefix) {
  const auto read = [&](const char* key) { return vectors.MetadataNumbers(absl::StrCat(std::string(prefix), key), 1); };
  ASSIGN_OR_RETURN(const std::vector<double> kl, read("kl_mean"));
  ASSIGN_OR_RETURN(const std::vector<double> rel, read("rel_median"));
  return NoiseFloor{kl.front(), rel.front()};
}

absl::StatusOr<std::vector<double>> ReadRowFloors(const Vectors& vectors, std::string_view prefix, int64_t n_rows) {
  return vectors.MetadataNumbers(absl::StrCat(std::string(prefix), "rel_rows"), n_rows);
}

void JudgeFp32(const std::string& name, const LogitFigures& figures, Report& report) {
  const int64_t n = figures.n_rows();
  const double median = Median(figures.rel);
  report.Check(absl::StrCat(name, " median rel"), median <= 1e-5, absl::StrCat(Figure(median), " (limit 1e-5)"));
  const int64_t n_close = CountWithin(figures.rel, 2e-3);
  report.Check(absl::StrCat(name, " rows with rel <= 2e-3"), AtLeast(n_close, n, 990),
               absl::StrCat(ShareOf(n_close, n), " (limit 99 %), max ", Figure(Quantile(figures.rel, 1.0))));
  report.Check(absl::StrCat(name, " top-1 equal"), AtLeast(figures.CountTop1Equal(), n, 995),
               absl::StrCat(ShareOf(figures.CountTop1Equal(), n), " (limit 99.5 %)"));
}

void JudgeShortNative(const std::string& name, const LogitFigures& figures, std::span<const double> floors,
                      Report& report) {
  LONGSHELF_CHECK(floors.size() == figures.rel.size());
  for (size_t i = 0; i < floors.size(); ++i) {
    const double limit = std::max(1e-3, 3.0 * floors[i]);
    report.Check(absl::StrCat(name, " row ", i, " rel"), figures.rel[i] <= limit,
                 absl::StrCat(Figure(figures.rel[i]), " (limit ", Figure(limit), ")"));
  }
}

void JudgeLongNative(const std::string& name, const LogitFigures& figures, const NoiseFloor& floor, Report& report) {
  const double kl = Mean(figures.kl);
  report.Check(absl::StrCat(name, " mean KL"), kl <= 3.0 * floor.kl_mean,
               absl::StrCat(Figure(kl), " (limit ", Figure(3.0 * floor.kl_mean), " = 3 x floor)"));
  const double median = Median(figures.rel);
  report.Check(absl::StrCat(name, " median rel"), median <= 2.0 * floor.rel_median,
               absl::StrCat(Figure(median), " (limit ", Figure(2.0 * floor.rel_median), " = 2 x floor), top-1 equal ",
                            ShareOf(figures.CountTop1Equal(), figures.n_rows())));
}

}  // namespace longshelf::engine
