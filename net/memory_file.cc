#include "memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::net {
namespace {

// The descriptor of a new file with this content, changed last in second `stamp`.
absl::StatusOr<int> NewFile(std::string_view content, int stamp) {
  const auto failed = [](const char* what) {
    return absl::UnavailableError(absl::StrCat("a file in memory: ", what, ": ", std::strerror(errno)));
  };
  const int fd = memfd_create("longshelf", MFD_CLOEXEC);
  if (fd < 0) return failed("create");
  while (!content.empty()) {
    const ssize_t n = write(fd, content.data(), content.size());
    if (n <= 0) {
      const absl::Status status = failed("write");
      close(fd);
      return status;
    }
    content.remove_prefix(static_cast<size_t>(n));
  }
  const timespec times[2] = {{stamp, 0}, {stamp, 0}};
  if (fchmod(fd, S_IRUSR) != 0 || futimens(fd, times) != 0) {
    const absl::Status status = failed("stamp");
    close(fd);
    return status;
  }
  return fd;
}

}  // namespace

absl::StatusOr<MemoryFile> MemoryFile::Create(std::string_view content) {
  ASSIGN_OR_RETURN(const int fd, NewFile(content, 1));
  return MemoryFile(fd);
}

absl::Status MemoryFile::Replace(std::string_view content) {
  ASSIGN_OR_RETURN(const int fd, NewFile(content, ++n_contents_));
  const int replaced = dup3(fd, fd_, O_CLOEXEC);
  close(fd);
  if (replaced < 0) return absl::UnavailableError(absl::StrCat("a file in memory: ", std::strerror(errno)));
  return absl::OkStatus();
}

std::string MemoryFile::path() const { return absl::StrCat("/proc/self/fd/", fd_); }

}  // namespace longshelf::net
