#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longshelf::cli {

// Right-aligned columns under a left-aligned label.
struct TextTable {
  struct Row {
    std::string label;
    std::vector<std::string> cells;  // none: a heading
  };
  std::vector<Row> rows;
  std::string ToString() const;
};

std::string BytesText(double bytes);    // "3.435 GiB"
std::string CountText(double n);        // "284.33 B", "12.5 M"
std::string PercentText(double ratio);  // "10.03 %"

// "0-2, 4, 6-60 step 2" of ascending numbers.
std::string RangesText(const std::vector<int64_t>& numbers);

}  // namespace longshelf::cli
