#include "control_groups.h"

#include <algorithm>
#include <fstream>
#include <optional>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace longshelf {
namespace {

namespace fs = std::filesystem;

// Where a controller of this process is told of, and how its files are called.
struct Hierarchy {
  bool is_v2 = false;
  fs::path mount;        // where it is mounted
  fs::path mounted;      // the group that is seen there
  std::string of_group;  // this process's group, from the hierarchy's own root
};

// "\040" for a blank, as the kernel writes paths in mountinfo.
std::string Unescaped(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t at) { return text[i + at] >= '0' && text[i + at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && digit(1) && digit(2) && digit(3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool HasWord(absl::string_view list, absl::string_view word) {
  const std::vector<absl::string_view> words = absl::StrSplit(list, ',');
  return std::find(words.begin(), words.end(), word) != words.end();
}

// "36 35 98:0 /mounted /mount opts ... - type source options", whose controller may be mounted there.
std::optional<Hierarchy> ParseMount(const std::string& line, const std::string& controller) {
  const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
  if (halves.size() != 2) return std::nullopt;
  const std::vector<std::string> head = absl::StrSplit(halves[0], ' ');
  const std::vector<std::string> tail = absl::StrSplit(halves[1], ' ');
  if (head.size() < 5 || tail.size() < 3) return std::nullopt;
  const bool is_v2 = tail[0] == "cgroup2";
  if (!is_v2 && (tail[0] != "cgroup" || !HasWord(tail[2], controller))) return std::nullopt;
  return Hierarchy{.is_v2 = is_v2, .mount = Unescaped(head[4]), .mounted = Unescaped(head[3]), .of_group = ""};
}

// "4:memory:/group" or, of version 2, "0::/group".
std::optional<std::string> GroupOf(const std::vector<std::string>& lines, bool is_v2, const std::string& controller) {
  for (const std::string& line : lines) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (is_v2 ? fields[0] == "0" && fields[1].empty() : HasWord(fields[1], controller)) return fields[2];
  }
  return std::nullopt;
}

std::vector<Hierarchy> FindHierarchies(const fs::path& root, const std::string& controller) {
  const std::vector<std::string> groups = LinesOf(root / "proc/self/cgroup");
  std::vector<Hierarchy> out;
  for (const std::string& line : LinesOf(root / "proc/self/mountinfo")) {
    std::optional<Hierarchy> hierarchy = ParseMount(line, controller);
    if (!hierarchy.has_value()) continue;
    const std::optional<std::string> group = GroupOf(groups, hierarchy->is_v2, controller);
    if (!group.has_value()) continue;
    hierarchy->of_group = *group;
    out.push_back(*std::move(hierarchy));
  }
  return out;
}

// This process's group and those above it, as far up as they are mounted, innermost first.
std::vector<fs::path> GroupsAbove(const Hierarchy& hierarchy) {
  const fs::path below = fs::path(hierarchy.of_group).lexically_relative(hierarchy.mounted);
  std::vector<fs::path> out = {hierarchy.mount};
  // A group outside what is mounted, as a container may see it: then what is mounted is the container's own.
  if (below.empty() || *below.begin() == "..") return out;
  for (const fs::path& name : below) {
    if (name != ".") out.push_back(out.back() / name);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

std::vector<std::string> LinesOf(const fs::path& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::vector<ControlGroup> FindControlGroups(const fs::path& root, const std::string& controller) {
  std::vector<ControlGroup> out;
  for (const Hierarchy& hierarchy : FindHierarchies(root, controller)) {
    for (const fs::path& group : GroupsAbove(hierarchy)) out.push_back({group, hierarchy.is_v2});
  }
  return out;
}

}  // namespace longshelf
