#pragma once

namespace longshelf {

// What this binary was built as: shown by --version, in the first log line and as longshelf_build_info.
struct BuildInfo {
  const char* version;   // of the project, "0.1.0"
  const char* compiler;  // "g++ 12.2.0"
  const char* preset;    // CMAKE_BUILD_TYPE plus sanitizers
};

BuildInfo GetBuildInfo();

}  // namespace longshelf
