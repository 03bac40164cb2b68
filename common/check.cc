#include "common/check.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace longshelf {
namespace {

// No std::string: whoever reads it may be out of memory, or end while the program is being torn down.
std::array<char, PATH_MAX> death_note{};

}  // namespace

void SetDeathNote(const std::string& file) {
  if (file.size() < death_note.size()) std::memcpy(death_note.data(), file.c_str(), file.size() + 1);
}

void LeaveDeathNote(const char* text) {
  if (death_note[0] == '\0') return;
  const int fd = open(death_note.data(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t n = write(fd, text, std::strlen(text));
  close(fd);
}

}  // namespace longshelf

namespace longshelf::internal {

void CheckFailed(const char* condition, const char* file, int line) {
  std::array<char, 1024> text{};
  std::snprintf(text.data(), text.size(), "CHECK failed at %s:%d: %s", file, line, condition);
  std::fprintf(stderr, "%s\n", text.data());
  LeaveDeathNote(text.data());
  std::abort();
}

}  // namespace longshelf::internal
