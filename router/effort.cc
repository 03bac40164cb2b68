#include "router/effort.h"

#include <array>

namespace longshelf::router {
namespace {

constexpr std::array<EffortRow, 7> kEffortTable = {{
    // requested, preview, 0731
    {"minimal", "high", "low"},
    {"low", "high", "low"},
    {"medium", "high", "high"},
    {"high", "high", "high"},
    {"xhigh", "max", "high"},
    {"max", "max", "max"},
    {"ultra", "max", "max"},
}};

}  // namespace

std::span<const EffortRow> EffortTable() { return kEffortTable; }

absl::StatusOr<std::string> MapEffort(std::string_view requested, tokenizer::ChatDialect dialect) {
  if (requested.empty()) requested = kDefaultEffort;
  for (const EffortRow& row : kEffortTable) {
    if (row.requested == requested) {
      return std::string(dialect == tokenizer::ChatDialect::kPreview ? row.preview : row.v0731);
    }
  }
  return absl::InvalidArgumentError(
      "reasoning_effort must be one of none, minimal, low, medium, high, xhigh, max, ultra");
}

}  // namespace longshelf::router
