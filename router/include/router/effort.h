#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tokenizer/chat.h"

// What a client's reasoning_effort means to a checkpoint revision. Data, because it changed once already.
namespace longshelf::router {

struct EffortRow {
  std::string_view requested;  // as clients send it
  std::string_view preview;    // as RenderChat takes it
  std::string_view v0731;
};
std::span<const EffortRow> EffortTable();

// The effort used when a client says nothing.
inline constexpr std::string_view kDefaultEffort = "high";

// `requested` is one of the table's names, or "" for the default. "none" is not in the table: it switches thinking off
// before this is asked. INVALID_ARGUMENT lists the names.
absl::StatusOr<std::string> MapEffort(std::string_view requested, tokenizer::ChatDialect dialect);

}  // namespace longshelf::router
