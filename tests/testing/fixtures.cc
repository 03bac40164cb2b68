#include "testing/fixtures.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

namespace longshelf::testing {
namespace {

struct TempDirs {
  std::vector<std::filesystem::path> paths;
  ~TempDirs() {
    std::error_code ignored;
    for (const auto& path : paths) std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

std::filesystem::path FixturePath(std::string_view relative) {
  return std::filesystem::path(LONGSHELF_SOURCE_DIR) / "tests" / "fixtures" / relative;
}

std::filesystem::path ModelPath(std::string_view name) {
  if (name == "demo") return std::filesystem::path(LONGSHELF_SOURCE_DIR) / "models" / "demo";
  return FixturePath("models") / name;
}

std::string TestNameOf(std::string_view model) {
  std::string name(model);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::filesystem::path MakeTempDir(std::string_view name) {
  static TempDirs dirs;
  std::string pattern =
      (std::filesystem::temp_directory_path() / (std::string("longshelf-") + std::string(name) + "-XXXXXX")).string();
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  dirs.paths.emplace_back(pattern);
  return pattern;
}

}  // namespace longshelf::testing
