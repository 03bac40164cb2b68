#include "process/available_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "control_groups.h"

namespace longshelf {
namespace {

namespace fs = std::filesystem;

// Version 1 says "no limit" with the largest number of pages.
constexpr uint64_t kUnlimited = uint64_t{1} << 62;

// A file with one number; "max" or no file means none.
std::optional<uint64_t> ReadNumber(const fs::path& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

// File pages that the kernel drops before it kills anybody.
uint64_t Droppable(const fs::path& group, bool is_v2) {
  uint64_t bytes = 0;
  std::ifstream file(group / "memory.stat");
  std::string key;
  for (uint64_t value = 0; file >> key >> value;) {
    absl::string_view name = key;
    if (!is_v2 && !absl::ConsumePrefix(&name, "total_")) continue;
    if (name == "active_file" || name == "inactive_file") bytes += value;
  }
  return bytes;
}

void BoundByGroup(const fs::path& root, const fs::path& group, bool is_v2, AvailableMemory* room) {
  const fs::path dir = root / group.relative_path();
  std::vector<const char*> limit_names = {"memory.limit_in_bytes"};
  if (is_v2) limit_names = {"memory.max", "memory.high"};
  uint64_t limit = kUnlimited;
  for (const char* name : limit_names) limit = std::min(limit, ReadNumber(dir / name).value_or(kUnlimited));
  if (limit >= kUnlimited) return;
  const uint64_t charged = ReadNumber(dir / (is_v2 ? "memory.current" : "memory.usage_in_bytes")).value_or(0);
  const uint64_t used = charged - std::min(charged, Droppable(dir, is_v2));
  const uint64_t left = limit - std::min(limit, used);
  if (left >= room->bytes) return;
  *room = {.bytes = left,
           .bound_by = absl::StrCat("control group ", group.lexically_normal().string(), " (limit ", limit, " bytes)")};
}

}  // namespace

AvailableMemory FindAvailableMemory(const fs::path& root) {
  AvailableMemory room{.bytes = kUnlimited, .bound_by = "this machine"};
  for (const std::string& line : LinesOf(root / "proc/meminfo")) {
    absl::string_view rest = line;
    uint64_t kib = 0;
    if (!absl::ConsumePrefix(&rest, "MemAvailable:") || !absl::ConsumeSuffix(&rest, " kB")) continue;
    if (absl::SimpleAtoi(rest, &kib)) room.bytes = std::min(kib, kUnlimited / 1024) * 1024;
  }
  for (const ControlGroup& group : FindControlGroups(root, "memory")) BoundByGroup(root, group.dir, group.is_v2, &room);
  return room;
}

}  // namespace longshelf
