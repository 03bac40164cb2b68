#include "report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_format.h"

namespace longshelf::engine {

void Report::Check(std::string_view name, bool passed, std::string_view figures) {
  ++n_checks_;
  if (!passed) ++n_failed_;
  out_ << (passed ? "PASS  " : "FAIL  ") << name << "  " << figures << std::endl;
}

void Report::Note(std::string_view name, std::string_view figures) {
  out_ << "      " << name << "  " << figures << std::endl;
}

void Report::NotJudged(std::string_view name, std::string_view why) {
  ++n_not_judged_;
  out_ << "NOT JUDGED  " << name << "  " << why << std::endl;
}

void Report::Summary() const {
  out_ << (all_passed() ? "PASS" : "FAIL") << "  " << n_checks_ - n_failed_ << " of " << n_checks_ << " checks passed";
  if (n_not_judged_ > 0)
    out_ << ", " << n_not_judged_ << (n_not_judged_ == 1 ? " tensor" : " tensors") << " not judged";
  out_ << std::endl;
}

std::string Figure(double value) { return absl::StrFormat("%.3g", value); }

std::string ShareOf(int64_t count, int64_t n) {
  return absl::StrFormat("%.2f %% of %d", n == 0 ? 100.0 : 100.0 * static_cast<double>(count) / static_cast<double>(n),
                         n);
}

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  const auto at = static_cast<size_t>(std::clamp(rank, 1.0, static_cast<double>(values.size()))) - 1;
  return values[at];
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

double Mean(const std::vector<double>& values) {
  return values.empty() ? 0.0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace longshelf::engine
