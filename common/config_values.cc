#include "config_values.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/config.h"

namespace longshelf {
namespace {

struct ByteUnit {
  absl::string_view name;
  int64_t bytes;
};

constexpr std::array<ByteUnit, 9> kByteUnits = {{{"TiB", int64_t{1} << 40},
                                                 {"GiB", int64_t{1} << 30},
                                                 {"MiB", int64_t{1} << 20},
                                                 {"KiB", int64_t{1} << 10},
                                                 {"TB", 1'000'000'000'000},
                                                 {"GB", 1'000'000'000},
                                                 {"MB", 1'000'000},
                                                 {"KB", 1'000},
                                                 {"B", 1}}};

// Edits (insert, remove, replace, swap neighbours) from a to b.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

absl::Status Expected(absl::string_view what, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", got ", QuoteYaml(text.substr(0, 80))));
}

}  // namespace

absl::StatusOr<bool> ParseBool(absl::string_view text) {
  const std::string lower = absl::AsciiStrToLower(text);
  if (lower == "true" || lower == "yes" || lower == "on" || lower == "1") return true;
  if (lower == "false" || lower == "no" || lower == "off" || lower == "0") return false;
  return Expected("true or false", text);
}

absl::StatusOr<int64_t> ParseInteger(absl::string_view text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) return Expected("a whole number", text);
  return value;
}

absl::StatusOr<double> ParseNumber(absl::string_view text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) return Expected("a number", text);
  return value;
}

absl::StatusOr<absl::Duration> ParseTime(absl::string_view text) {
  absl::Duration value;
  if (!absl::ParseDuration(std::string(text), &value) || value == absl::InfiniteDuration() ||
      value == -absl::InfiniteDuration()) {
    return Expected("a duration such as 500ms, 2s or 1m30s", text);
  }
  return value;
}

absl::StatusOr<int64_t> ParseByteSize(absl::string_view text) {
  constexpr absl::string_view kWhat = "a size such as 4096, 64KiB, 512MiB or 1.5GB";
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const absl::string_view number = text.substr(0, digits);
  const std::string unit(absl::StripAsciiWhitespace(text.substr(digits)));
  int64_t scale = unit.empty() ? 1 : 0;
  for (const ByteUnit& candidate : kByteUnits) {
    if (absl::EqualsIgnoreCase(unit, candidate.name)) scale = candidate.bytes;
  }
  int64_t whole = 0;
  if (scale != 0 && absl::SimpleAtoi(number, &whole)) {
    int64_t bytes = 0;
    if (!__builtin_mul_overflow(whole, scale, &bytes)) return bytes;
  }
  double fraction = 0;
  if (scale <= 1 || !absl::SimpleAtod(number, &fraction) || fraction * static_cast<double>(scale) > 9e18) {
    return Expected(kWhat, text);
  }
  return static_cast<int64_t>(std::llround(fraction * static_cast<double>(scale)));
}

std::string FormatByteSize(int64_t bytes) {
  for (const ByteUnit& unit : kByteUnits) {
    if (bytes >= unit.bytes && bytes % unit.bytes == 0 && unit.name.size() == 3) {
      return absl::StrCat(bytes / unit.bytes, unit.name);
    }
  }
  return absl::StrCat(bytes);
}

std::string QuoteYaml(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      absl::StrAppend(&out, "\\", absl::string_view(&c, 1));
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppend(&out, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
  return out;
}

std::string NearestName(absl::string_view unknown, const std::vector<std::string>& candidates) {
  if (unknown.size() > 64) return "";
  std::pair<size_t, std::string> best{std::max<size_t>(2, unknown.size() / 3) + 1, ""};
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(unknown, candidate);
    if (distance < best.first && distance < candidate.size()) best = {distance, candidate};
  }
  return best.second;
}

}  // namespace longshelf
