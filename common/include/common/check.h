#pragma once

// LONGSHELF_CHECK(condition) << nothing: aborts with file and line, in release too. For our own bugs only; never on
// input, peers or disk.
#define LONGSHELF_CHECK(condition)                                        \
  do {                                                                    \
    if (!(condition)) [[unlikely]] {                                      \
      ::longshelf::internal::CheckFailed(#condition, __FILE__, __LINE__); \
    }                                                                     \
  } while (false)

namespace longshelf::internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace longshelf::internal
