#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "report.h"
#include "vectors.h"

// The rules by which whole runs are judged by their logits. Those of a draft module are judged by the same.
namespace longshelf::engine {

// Tokens up to which a native file is judged row by row.
inline constexpr int64_t kShortFileTokens = 3;

struct LogitFigures {
  std::vector<double> rel;  // per row
  std::vector<double> kl;   // per row, of ours from the reference
  std::vector<bool> top1_equal;

  int64_t n_rows() const { return static_cast<int64_t>(rel.size()); }
  int64_t CountTop1Equal() const { return std::count(top1_equal.begin(), top1_equal.end(), true); }
};
// ours, reference: [rows, vocab]
LogitFigures CompareLogits(std::span<const float> ours, std::span<const float> reference, int64_t vocab);

// What the reference differs from itself when only its order of sums changes, out of a file's metadata. The keys begin
// with "floor_", a draft module's with "floor_draft_". INVALID_ARGUMENT: missing, no number, negative or infinite.
struct NoiseFloor {
  double kl_mean = 0.0;
  double rel_median = 0.0;
};
absl::StatusOr<NoiseFloor> ReadNoiseFloor(const Vectors& vectors, std::string_view prefix);
// One figure per row, in files of up to kShortFileTokens. INVALID_ARGUMENT too when they are not n_rows.
absl::StatusOr<std::vector<double>> ReadRowFloors(const Vectors& vectors, std::string_view prefix, int64_t n_rows);

void JudgeFp32(const std::string& name, const LogitFigures& figures, Report& report);
// floors: one per row of figures.
void JudgeShortNative(const std::string& name, const LogitFigures& figures, std::span<const double> floors,
                      Report& report);
void JudgeLongNative(const std::string& name, const LogitFigures& figures, const NoiseFloor& floor, Report& report);

}  // namespace longshelf::engine
