#include "inbox.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

constexpr size_t kPageBytes = 4096;

absl::Status SystemError(const std::string& what) {
  return absl::UnavailableError(absl::StrCat("inbox of a shard: ", what, ": ", strerror(errno)));
}

}  // namespace

size_t InboxShape::dispatch_offset(int source) const {
  const size_t lines = RoundUpTo(static_cast<size_t>(n_sources) * sizeof(Inbox::Lines), kPageBytes);
  return lines + static_cast<size_t>(source) * RoundUpTo(dispatch_bytes, kPageBytes);
}
size_t InboxShape::results_offset() const { return dispatch_offset(n_sources); }
size_t InboxShape::n_bytes() const { return results_offset() + RoundUpTo(combine_rows * result_stride, kPageBytes); }

absl::StatusOr<std::unique_ptr<Inbox>> Inbox::Map(int fd, const InboxShape& shape) {
  absl::StatusOr<MappedMemory> memory = MappedMemory::Shared(fd, shape.n_bytes());
  close(fd);
  if (!memory.ok()) return memory.status();
  return std::unique_ptr<Inbox>(new Inbox(*std::move(memory), shape));
}

absl::StatusOr<std::unique_ptr<Inbox>> Inbox::Make(const std::string& path, const InboxShape& shape) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return SystemError(absl::StrCat("cannot create ", path));
  if (const int error = posix_fallocate(fd, 0, static_cast<off_t>(shape.n_bytes())); error != 0) {
    close(fd);
    unlink(path.c_str());
    return absl::ResourceExhaustedError(
        absl::StrCat("the inbox of a shard needs ", shape.n_bytes(), " bytes at ", path, ": ", strerror(error)));
  }
  return Map(fd, shape);
}

absl::StatusOr<std::unique_ptr<Inbox>> Inbox::Open(const std::string& path, const InboxShape& shape) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return SystemError(absl::StrCat("cannot open ", path));
  return Map(fd, shape);
}

absl::StatusOr<std::unique_ptr<Inbox>> Inbox::Private(const InboxShape& shape) {
  ASSIGN_OR_RETURN(MappedMemory memory, MappedMemory::Private(shape.n_bytes()));
  return std::unique_ptr<Inbox>(new Inbox(std::move(memory), shape));
}

}  // namespace longshelf::engine
