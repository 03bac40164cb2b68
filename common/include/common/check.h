#pragma once

#include <string>

// LONGSHELF_CHECK(condition) << nothing: aborts with file and line, in release too. For our own bugs only; never on
// input, peers or disk.
#define LONGSHELF_CHECK(condition)                                        \
  do {                                                                    \
    if (!(condition)) [[unlikely]] {                                      \
      ::longshelf::internal::CheckFailed(#condition, __FILE__, __LINE__); \
    }                                                                     \
  } while (false)

namespace longshelf {

// Where a program leaves its last line, besides standard error, when it ends by a failed check or by an exception: a
// file that does not exist yet. Call before other threads exist that may fail; empty: nowhere, as at first.
void SetDeathNote(const std::string& file);
// For whoever ends the program. Allocates nothing.
void LeaveDeathNote(const char* text);

}  // namespace longshelf

namespace longshelf::internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace longshelf::internal
