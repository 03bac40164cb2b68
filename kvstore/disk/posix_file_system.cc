#include "posix_file_system.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"
#include "uring.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr size_t kPiecesMax = 256;  // below IOV_MAX everywhere

absl::Status ErrnoStatus(int error, const std::string& what) {
  const std::string message = absl::StrCat(what, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(message);
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    default:
      return absl::DataLossError(message);
  }
}

// The kernel had no memory for a request, or was interrupted. A plain write waits until it has.
bool IsOfTheMoment(int error) { return error == EAGAIN || error == EINTR || error == EBUSY || error == ENOMEM; }

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

class PosixFile final : public File {
 public:
  PosixFile(Descriptor descriptor, std::string path, Uring* uring)
      : descriptor_(std::move(descriptor)), path_(std::move(path)), uring_(uring) {}

  absl::StatusOr<size_t> ReadSome(uint64_t offset, std::span<std::byte> out) override {
    ssize_t n = 0;
    do {
      n = pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    } while (n < 0 && errno == EINTR);
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("read ", path_));
    return static_cast<size_t>(n);
  }

  absl::StatusOr<size_t> WriteSome(uint64_t offset, std::span<const std::span<const std::byte>> pieces) override {
    if (uring_ != nullptr && pieces.size() > 1) {
      const int64_t n_bytes = uring_->Write(descriptor_.get(), offset, pieces);
      if (n_bytes >= 0) return static_cast<size_t>(n_bytes);
      const int error = static_cast<int>(-n_bytes);
      if (!IsOfTheMoment(error)) return ErrnoStatus(error, absl::StrCat("write ", path_));
    }
    std::vector<iovec> vectors;
    for (const std::span<const std::byte> piece : pieces.first(std::min(pieces.size(), kPiecesMax))) {
      // The kernel's own type; it does not write to what it sends.
      vectors.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
    }
    ssize_t n = 0;
    do {
      n = pwritev(descriptor_.get(), vectors.data(), static_cast<int>(vectors.size()), static_cast<off_t>(offset));
    } while (n < 0 && errno == EINTR);
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("write ", path_));
    return static_cast<size_t>(n);
  }

  absl::Status SyncData() override {
    if (fdatasync(descriptor_.get()) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("sync ", path_));
  }

  absl::Status Preallocate(uint64_t n_bytes) override {
    if (const int error = posix_fallocate(descriptor_.get(), 0, static_cast<off_t>(n_bytes)); error != 0) {
      return ErrnoStatus(error, absl::StrCat("preallocate ", path_));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Size() override {
    struct stat info = {};
    if (fstat(descriptor_.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", path_));
    return static_cast<uint64_t>(info.st_size);
  }

 private:
  const Descriptor descriptor_;
  const std::string path_;
  Uring* const uring_;  // the file system's; null where there is none
};

class PosixLock final : public DirectoryLock {
 public:
  explicit PosixLock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

 private:
  const Descriptor descriptor_;  // the lock is the descriptor's
};

class PosixFileSystem final : public FileSystem {
 public:
  PosixFileSystem(DirectIo direct, WriteMethod method) : direct_(direct) {
    if (method == WriteMethod::kPwrite) return;
    absl::StatusOr<std::unique_ptr<Uring>> uring = Uring::Create();
    if (uring.ok()) {
      uring_ = *std::move(uring);
      spdlog::info("segment files are written through io_uring");
    } else {
      spdlog::info("segment files are written by pwrite ({})", std::string(uring.status().message()));
    }
  }

  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, bool create) override {
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0);
    // tmpfs and some network file systems refuse O_DIRECT; the page cache serves them.
    int fd = direct_ == DirectIo::kAuto ? open(path.c_str(), flags | O_DIRECT, 0600) : -1;
    if (fd < 0 && (direct_ == DirectIo::kNever || errno == EINVAL)) fd = open(path.c_str(), flags, 0600);
    if (fd < 0) return ErrnoStatus(errno, absl::StrCat("open ", path));
    return std::make_unique<PosixFile>(Descriptor(fd), path, uring_.get());
  }

  absl::StatusOr<std::unique_ptr<DirectoryLock>> Lock(const std::string& directory) override {
    Descriptor descriptor(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() < 0) return ErrnoStatus(errno, absl::StrCat("open ", directory));
    if (flock(descriptor.get(), LOCK_EX | LOCK_NB) != 0) {
      return absl::UnavailableError(absl::StrCat(directory, " is in use by another process"));
    }
    return std::make_unique<PosixLock>(std::move(descriptor));
  }

  absl::Status Remove(const std::string& path) override {
    if (unlink(path.c_str()) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("remove ", path));
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("rename ", from));
  }

  absl::Status CreateDirectory(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    return error ? ErrnoStatus(error.value(), absl::StrCat("create ", path)) : absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    std::vector<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
      names.push_back(it->path().filename().string());
    }
    if (error) return ErrnoStatus(error.value(), absl::StrCat("list ", directory));
    return names;
  }

  absl::Status SyncDirectory(const std::string& directory) override {
    const Descriptor descriptor(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() >= 0 && fsync(descriptor.get()) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("sync ", directory));
  }

 private:
  const DirectIo direct_;
  std::unique_ptr<Uring> uring_;
};

}  // namespace

std::unique_ptr<FileSystem> MakePosixFileSystem(DirectIo direct, WriteMethod method) {
  return std::make_unique<PosixFileSystem>(direct, method);
}

}  // namespace longshelf::kvstore::disk
