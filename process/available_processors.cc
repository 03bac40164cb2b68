#include "process/available_processors.h"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "control_groups.h"

namespace longshelf {
namespace {

namespace fs = std::filesystem;

// Of a file with one line of fields: that one, when it is a number above 0.
std::optional<double> ReadField(const fs::path& path, size_t at) {
  const std::vector<std::string> lines = LinesOf(path);
  if (lines.empty()) return std::nullopt;
  const std::vector<std::string> fields = absl::StrSplit(lines[0], ' ');
  double value = 0;
  if (at >= fields.size() || !absl::SimpleAtod(fields[at], &value) || !(value > 0)) return std::nullopt;
  return value;
}

// Processors' worth of time that a group allows; version 2 says "max 100000" and version 1 -1 for no limit.
std::optional<double> LimitOf(const fs::path& dir, bool is_v2) {
  const std::optional<double> quota = is_v2 ? ReadField(dir / "cpu.max", 0) : ReadField(dir / "cpu.cfs_quota_us", 0);
  const std::optional<double> period = is_v2 ? ReadField(dir / "cpu.max", 1) : ReadField(dir / "cpu.cfs_period_us", 0);
  if (!quota.has_value() || !period.has_value()) return std::nullopt;
  return *quota / *period;
}

// Those that this process may run on: a container may have been given some of the machine's.
int AllowedProcessors() {
  constexpr size_t kProcessorsMax = 1 << 16;
  std::vector<uint64_t> mask(kProcessorsMax / 64);
  const size_t n_bytes = mask.size() * sizeof(uint64_t);
  if (sched_getaffinity(0, n_bytes, reinterpret_cast<cpu_set_t*>(mask.data())) != 0) {
    return static_cast<int>(std::thread::hardware_concurrency());
  }
  int n = 0;
  for (const uint64_t word : mask) n += std::popcount(word);
  return n;
}

}  // namespace

AvailableProcessors FindAvailableProcessors(const fs::path& root, int n_here) {
  if (n_here == 0) n_here = std::max(1, AllowedProcessors());
  AvailableProcessors out{.n = n_here, .bound_by = "this machine"};
  for (const ControlGroup& group : FindControlGroups(root, "cpu")) {
    const std::optional<double> limit = LimitOf(root / group.dir.relative_path(), group.is_v2);
    if (!limit.has_value() || *limit >= out.n) continue;
    out = {.n = std::max(1, static_cast<int>(std::ceil(*limit))),
           .bound_by =
               absl::StrCat("control group ", group.dir.lexically_normal().string(), " (", *limit, " processors)")};
  }
  return out;
}

}  // namespace longshelf
