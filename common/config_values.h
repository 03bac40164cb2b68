#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace longshelf {

// Texts to values and back, the same for flags, environment and YAML. Errors say what was expected, not where.

absl::StatusOr<bool> ParseBool(absl::string_view text);
absl::StatusOr<int64_t> ParseInteger(absl::string_view text);
absl::StatusOr<double> ParseNumber(absl::string_view text);
absl::StatusOr<absl::Duration> ParseTime(absl::string_view text);
// "4096", "64KiB", "1.5GB"; units B, KB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB.
absl::StatusOr<int64_t> ParseByteSize(absl::string_view text);

// The shortest exact form: 536870912 is "512MiB".
std::string FormatByteSize(int64_t bytes);
// A YAML scalar, quoted where plain text would mean something else.
std::string QuoteYaml(absl::string_view text);

}  // namespace longshelf
