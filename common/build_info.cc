#include "common/build_info.h"

namespace longshelf {

BuildInfo GetBuildInfo() {
#ifdef __clang__
  static constexpr char kCompiler[] = "clang " __clang_version__;
#else
  static constexpr char kCompiler[] = "g++ " __VERSION__;
#endif
  return {.version = LONGSHELF_VERSION, .compiler = kCompiler, .preset = LONGSHELF_BUILD_PRESET};
}

}  // namespace longshelf
