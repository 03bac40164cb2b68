#include "engine/model/kv_table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

bool IsWord(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '+';
  });
}

absl::Status CheckNumber(std::string_view what, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("component table: ", std::string(what), " is ", value, ", must be ", min, " to ", max));
}

// The value behind `name`=, which has to come next.
absl::StatusOr<int64_t> TakeNumber(std::string_view field, std::string_view name) {
  absl::string_view rest(field.data(), field.size());
  int64_t value = 0;
  if (absl::ConsumePrefix(&rest, absl::StrCat(std::string(name), "=")) && absl::SimpleAtoi(rest, &value)) return value;
  return absl::InvalidArgumentError(absl::StrCat("component table: ", std::string(name), " is not a number"));
}

}  // namespace

absl::Status KvTable::Add(std::string_view id, int64_t layer, int64_t ratio, int64_t row_bytes,
                          std::string_view dtype) {
  if (!IsWord(id) || !IsWord(dtype)) return absl::InvalidArgumentError("component table: id or dtype is not a word");
  RETURN_IF_ERROR(CheckNumber("layer", layer, 0, (1 << 20) - 1));
  RETURN_IF_ERROR(CheckNumber("ratio", ratio, 1, kBlockTokens));
  RETURN_IF_ERROR(CheckNumber("row_bytes", row_bytes, 1, kRowBytesMax));
  if (kBlockTokens % ratio != 0) {
    return absl::InvalidArgumentError(absl::StrCat("component table: ratio ", ratio, " must divide ", kBlockTokens));
  }
  if (components_.size() >= kComponentsMax || Find(id, layer) != nullptr) {
    return absl::InvalidArgumentError("component table: too many components, or the same one twice");
  }
  const int64_t rows = kBlockTokens / ratio;
  components_.push_back({.id = std::string(id),
                         .layer = layer,
                         .ratio = static_cast<int>(ratio),
                         .rows = rows,
                         .row_bytes = row_bytes,
                         .dtype = std::string(dtype),
                         .offset = block_bytes_});
  block_bytes_ += static_cast<size_t>(rows * row_bytes);
  return absl::OkStatus();
}

const KvComponent* KvTable::Find(std::string_view id, int64_t layer) const {
  const auto it =
      std::ranges::find_if(components_, [&](const KvComponent& c) { return c.id == id && c.layer == layer; });
  return it == components_.end() ? nullptr : &*it;
}

void KvTable::ClearTail(std::byte* block, int64_t n_tokens_in_block) const {
  for (const KvComponent& c : components_) {
    const int64_t n_live = n_tokens_in_block / c.ratio;
    std::memset(block + c.offset + static_cast<size_t>(n_live * c.row_bytes), 0,
                static_cast<size_t>((c.rows - n_live) * c.row_bytes));
  }
}

std::string KvTable::Serialize() const {
  std::string out;
  for (const KvComponent& c : components_) {
    absl::StrAppend(&out, c.id, " layer=", c.layer, " ratio=", c.ratio, " rows=", c.rows, " row_bytes=", c.row_bytes);
    absl::StrAppend(&out, " dtype=", c.dtype, " offset=", c.offset, "\n");
  }
  return out;
}

absl::StatusOr<KvTable> KvTable::Parse(std::string_view text) {
  constexpr size_t kFields = 7;
  KvTable table;
  for (const absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    if (line.empty()) continue;
    std::array<std::string_view, kFields> fields;
    size_t n = 0;
    for (const absl::string_view field : absl::StrSplit(line, ' ')) {
      if (n < kFields) fields[n] = std::string_view(field.data(), field.size());
      ++n;
    }
    if (n != kFields) return absl::InvalidArgumentError("component table: a line has not 7 fields");
    ASSIGN_OR_RETURN(const int64_t layer, TakeNumber(fields[1], "layer"));
    ASSIGN_OR_RETURN(const int64_t ratio, TakeNumber(fields[2], "ratio"));
    ASSIGN_OR_RETURN(const int64_t row_bytes, TakeNumber(fields[4], "row_bytes"));
    constexpr std::string_view kDtype = "dtype=";
    if (!fields[5].starts_with(kDtype)) return absl::InvalidArgumentError("component table: dtype is missing");
    RETURN_IF_ERROR(table.Add(fields[0], layer, ratio, row_bytes, fields[5].substr(kDtype.size())));
  }
  // Rows and offsets follow from the rest, and there is one way to write it.
  if (table.Serialize() != text) return absl::InvalidArgumentError("component table: its fields contradict each other");
  return table;
}

}  // namespace longshelf::engine
