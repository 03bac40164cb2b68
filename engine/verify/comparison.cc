#include "comparison.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"

namespace longshelf::engine {

double RelativeError(std::span<const float> ours, std::span<const float> reference) {
  double difference = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double d = static_cast<double>(ours[i]) - static_cast<double>(reference[i]);
    difference += d * d;
    norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  const double rel = std::sqrt(difference) / std::sqrt(std::max(norm, 1e-300));
  return std::isfinite(rel) ? rel : HUGE_VAL;
}

int64_t RowComparison::CountDiffering() const { return std::count(equal.begin(), equal.end(), false); }

RowComparison CompareRows(std::span<const float> ours, std::span<const float> reference, int64_t cols) {
  const auto width = static_cast<size_t>(cols);
  LONGSHELF_CHECK(ours.size() == reference.size() && reference.size() % width == 0);
  RowComparison out;
  for (size_t at = 0; at < reference.size(); at += width) {
    const std::span<const float> a = ours.subspan(at, width);
    const std::span<const float> b = reference.subspan(at, width);
    out.equal.push_back(std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
    out.rel.push_back(RelativeError(a, b));
  }
  return out;
}

int64_t CountWithin(const std::vector<double>& values, double limit) {
  return std::count_if(values.begin(), values.end(), [&](double v) { return v <= limit; });
}

bool AtLeast(int64_t count, int64_t n, int64_t permille) { return count * 1000 >= n * permille; }

bool AtMost(int64_t count, int64_t n, int64_t permille) { return count * 1000 <= n * permille; }

}  // namespace longshelf::engine
