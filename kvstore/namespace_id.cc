#include "kvstore/namespace_id.h"

#include <limits>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kBase = 36;
constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
constexpr char kDeleted[] = "namespace_id: deleted";

std::string InBase36(uint64_t number) {
  std::string text;
  for (; number > 0; number /= kBase) text.insert(text.begin(), kDigits[number % kBase]);
  return text;
}

// Only as InBase36 writes it: an id has one spelling.
std::optional<uint64_t> FromBase36(std::string_view text) {
  if (text.empty() || text.front() == '0') return std::nullopt;
  uint64_t number = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos || number > (std::numeric_limits<uint64_t>::max() - digit) / kBase) {
      return std::nullopt;
    }
    number = number * kBase + digit;
  }
  return number;
}

}  // namespace

std::string NamespaceIdOf(std::string_view name, uint64_t generation) {
  if (generation == 0) return std::string(name);
  return absl::StrCat(absl::string_view(name.data(), name.size()), "#", InBase36(generation));
}

NamespaceId ParseNamespaceId(std::string_view id) {
  const size_t hash = id.rfind('#');
  if (hash == std::string_view::npos || hash == 0) return {id, 0};
  const std::optional<uint64_t> generation = FromBase36(id.substr(hash + 1));
  return generation.has_value() ? NamespaceId{id.substr(0, hash), *generation} : NamespaceId{id, 0};
}

std::string_view OwnerOf(std::string_view name) {
  const size_t colon = name.find(':');
  return colon == std::string_view::npos ? std::string_view() : name.substr(0, colon);
}

bool IsBefore(std::string_view id, std::string_view name, uint64_t generation) {
  const NamespaceId parsed = ParseNamespaceId(id);
  if (parsed.generation >= generation || name.empty()) return false;
  return parsed.name == name || OwnerOf(parsed.name) == name;
}

absl::Status NamespaceDeleted() { return absl::FailedPreconditionError(kDeleted); }

bool IsNamespaceDeleted(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && absl::StrContains(status.message(), kDeleted);
}

}  // namespace longshelf::kvstore
