#include "model_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "common/status.h"
#include "json_fields.h"
#include "text.h"

namespace longshelf::engine {
namespace {

// O_NONBLOCK: opening a FIFO must not wait for a writer; it is refused right after.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

absl::Status OpenError(int error, std::string_view what) {
  const std::string message = Cat(what, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(message);
    case EXDEV:
    case ELOOP:
      return absl::InvalidArgumentError(
          Cat(what, ": a symbolic link leads out of the model directory; copy the files into it"));
    default:
      return absl::InternalError(message);
  }
}

absl::StatusOr<OpenFile> Checked(int fd, std::string_view what) {
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    const int error = errno;
    close(fd);
    return OpenError(error, what);
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(Cat(what, ": not a regular file"));
  }
  return OpenFile(fd, static_cast<uint64_t>(info.st_size));
}

absl::Status CheckName(std::string_view name) {
  if (name.empty() || name.size() > 1024) {
    return absl::InvalidArgumentError(
        Cat("file name ", QuotedName(name), ": must have 1 to 1024 bytes, has ", name.size()));
  }
  if (name.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(Cat("file name ", QuotedName(name), ": contains NUL"));
  }
  if (name.front() == '/') {
    return absl::InvalidArgumentError(Cat("file name ", QuotedName(name), ": must not be absolute"));
  }
  for (const std::string_view part : SplitText(name, '/')) {
    if (part.empty() || part == "." || part == "..") {
      return absl::InvalidArgumentError(Cat("file name ", QuotedName(name), ": must stay below the model directory"));
    }
  }
  return absl::OkStatus();
}

// For kernels (or sandboxes) without openat2: one component at a time, following no link at all.
int OpenWithoutLinks(int dir_fd, std::string_view name) {
  const std::vector<std::string> parts = SplitText(name, '/');
  int current = dir_fd;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int flags = kReadFlags | O_NOFOLLOW | (i + 1 < parts.size() ? O_DIRECTORY : 0);
    const int next = openat(current, parts[i].c_str(), flags);
    const int error = errno;
    if (current != dir_fd) {
      close(current);
    }
    if (next < 0) {
      errno = error;
      return -1;
    }
    current = next;
  }
  return current;
}

int OpenResolved(int dir_fd, const std::string& name) {
  open_how how{};
  how.flags = static_cast<uint64_t>(kReadFlags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const long fd = syscall(SYS_openat2, dir_fd, name.c_str(), &how, sizeof(how));
  if (fd < 0 && (errno == ENOSYS || errno == EPERM)) {
    return OpenWithoutLinks(dir_fd, name);
  }
  return static_cast<int>(fd);
}

// A file of models--X/snapshots/REVISION, which is a link to a file of models--X/blobs and to nothing else. -1 with
// errno otherwise.
int OpenInCache(const std::filesystem::path& dir, int dir_fd, const std::string& name) {
  std::error_code error;
  const std::filesystem::path snapshot = std::filesystem::canonical(dir, error);
  std::array<char, 1024> link;
  const ssize_t n_link = readlinkat(dir_fd, name.c_str(), link.data(), link.size());
  errno = EXDEV;
  if (error || snapshot.parent_path().filename() != "snapshots" || n_link < 0) {
    return -1;
  }
  std::string blobs = "../../blobs/";
  for (size_t i = 1; i < SplitText(name, '/').size(); ++i) {
    blobs = "../" + blobs;
  }
  const std::string_view target(link.data(), static_cast<size_t>(n_link));
  if (!target.starts_with(blobs) || target.find('/', blobs.size()) != std::string_view::npos) {
    return -1;
  }
  const std::filesystem::path store = snapshot.parent_path().parent_path() / "blobs";
  const int store_fd = open(store.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (store_fd < 0) {
    return -1;
  }
  const int fd = OpenResolved(store_fd, std::string(target.substr(blobs.size())));
  const int why = errno;
  close(store_fd);
  errno = why;
  return fd;
}

}  // namespace

OpenFile::~OpenFile() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

absl::StatusOr<OpenFile> OpenRegularFile(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), kReadFlags);
  if (fd < 0) {
    return OpenError(errno, path.string());
  }
  return Checked(fd, path.string());
}

absl::StatusOr<OpenFile> OpenBeneath(const std::filesystem::path& dir, std::string_view name) {
  RETURN_IF_ERROR(CheckName(name));
  const std::string what = (dir / name).string();
  const int dir_fd = open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir_fd < 0) {
    return OpenError(errno, dir.string());
  }
  int fd = OpenResolved(dir_fd, std::string(name));
  if (fd < 0 && (errno == EXDEV || errno == ELOOP)) {
    fd = OpenInCache(dir, dir_fd, std::string(name));
  }
  const int error = errno;
  close(dir_fd);
  if (fd < 0) {
    return OpenError(error, what);
  }
  return Checked(fd, what);
}

absl::Status RefuseLfsPointer(std::string_view content) {
  if (!content.starts_with("version https://git-lfs.github.com/spec/")) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("is a Git LFS pointer, not the file itself; run git lfs pull");
}

absl::StatusOr<std::string> ReadBeneath(const std::filesystem::path& dir, std::string_view name, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const OpenFile file, OpenBeneath(dir, name));
  if (file.size() > max_bytes) {
    return absl::ResourceExhaustedError(
        Cat((dir / name).string(), ": has ", file.size(), " bytes, at most ", max_bytes, " are read"));
  }
  std::string content(file.size(), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = pread(file.fd(), content.data() + done, content.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return absl::InternalError(
          Cat((dir / name).string(), ": ", n < 0 ? std::strerror(errno) : "became shorter while it was read"));
    }
    done += static_cast<size_t>(n);
  }
  if (const absl::Status status = RefuseLfsPointer(content); !status.ok()) {
    return Annotate(status, (dir / name).string());
  }
  return content;
}

}  // namespace longshelf::engine
