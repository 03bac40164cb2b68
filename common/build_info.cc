#include "common/build_info.h"

namespace longshelf {

BuildInfo GetBuildInfo() {
#ifdef __clang__
  constexpr char kCompiler[] = "clang " __clang_version__;
#else
  constexpr char kCompiler[] = "g++ " __VERSION__;
#endif
  return {.version = LONGSHELF_VERSION, .compiler = kCompiler, .preset = LONGSHELF_BUILD_PRESET};
}

}  // namespace longshelf
