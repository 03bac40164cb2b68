#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace longshelf::engine {

// |ours - reference| / |reference| over one row; infinite where it is no number.
double RelativeError(std::span<const float> ours, std::span<const float> reference);

// How rows of ours compare with the reference's.
struct RowComparison {
  std::vector<bool> equal;  // in every bit
  std::vector<double> rel;

  int64_t size() const { return static_cast<int64_t>(rel.size()); }
  int64_t CountDiffering() const;
};
// REQUIRES: both have the same size, a multiple of cols.
RowComparison CompareRows(std::span<const float> ours, std::span<const float> reference, int64_t cols);

int64_t CountWithin(const std::vector<double>& values, double limit);
// Whether `count` of `n` is at least, or at most, so many thousandths: in integers, so that a share which is met
// exactly is met.
bool AtLeast(int64_t count, int64_t n, int64_t permille);
bool AtMost(int64_t count, int64_t n, int64_t permille);

}  // namespace longshelf::engine
