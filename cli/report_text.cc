#include "report_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace longshelf::cli {

std::string TextTable::ToString() const {
  size_t label_width = 0;
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    if (!row.cells.empty()) label_width = std::max(label_width, row.label.size());
    widths.resize(std::max(widths.size(), row.cells.size()), 0);
    for (size_t i = 0; i < row.cells.size(); ++i) widths[i] = std::max(widths[i], row.cells[i].size());
  }
  std::string out;
  for (const Row& row : rows) {
    std::string line = row.cells.empty() ? row.label : fmt::format("{:<{}}", row.label, label_width);
    for (size_t i = 0; i < row.cells.size(); ++i) line += fmt::format("  {:>{}}", row.cells[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

std::string BytesText(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024.0 && unit + 1 < kUnits.size()) {
    bytes /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.3f} {}", bytes, kUnits[unit]);
}

std::string CountText(double n) {
  if (n >= 1e9) return fmt::format("{:.2f} B", n / 1e9);
  if (n >= 1e6) return fmt::format("{:.2f} M", n / 1e6);
  return fmt::format("{:.0f}", n);
}

std::string PercentText(double ratio) { return fmt::format("{:.2f} %", ratio * 100.0); }

std::string RangesText(const std::vector<int64_t>& numbers) {
  std::string out;
  size_t begin = 0;
  while (begin < numbers.size()) {
    size_t end = begin + 1;  // the longest run with one step
    const int64_t step = end < numbers.size() ? numbers[end] - numbers[begin] : 1;
    while (end < numbers.size() && numbers[end] - numbers[end - 1] == step) ++end;
    // Two numbers make a run only when they follow each other.
    if (end - begin == 2 && step != 1) end = begin + 1;
    if (!out.empty()) out += ", ";
    out += std::to_string(numbers[begin]);
    if (end - begin > 1) out += fmt::format("-{}{}", numbers[end - 1], step == 1 ? "" : fmt::format(" step {}", step));
    begin = end;
  }
  return out;
}

}  // namespace longshelf::cli
