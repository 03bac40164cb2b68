#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace longshelf::testing {

// tests/fixtures/<relative> in the source tree.
std::filesystem::path FixturePath(std::string_view relative);
// models/<name> for the demo model, tests/fixtures/models/<name> for the others.
std::filesystem::path ModelPath(std::string_view name);
// A model's name as part of a test's, which may have no '-'.
std::string TestNameOf(std::string_view model);
// A fresh directory below the test's temporary directory, removed when the process ends.
std::filesystem::path MakeTempDir(std::string_view name);

}  // namespace longshelf::testing
