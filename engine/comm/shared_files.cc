#include "shared_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

absl::Status SystemError(const std::string& what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat(what, " of a shard: cannot open ", path, ": ", strerror(errno)));
}

absl::StatusOr<MappedMemory> MapFile(int fd, size_t n_bytes) {
  absl::StatusOr<MappedMemory> memory = MappedMemory::Shared(fd, n_bytes);
  close(fd);
  return memory;
}

absl::StatusOr<MappedMemory> MakeFile(const std::string& path, const std::string& what, size_t n_bytes) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return SystemError(what, path);
  if (const int error = posix_fallocate(fd, 0, static_cast<off_t>(n_bytes)); error != 0) {
    close(fd);
    unlink(path.c_str());
    return absl::ResourceExhaustedError(
        absl::StrCat("the ", what, " of a shard needs ", n_bytes, " bytes at ", path, ": ", strerror(error)));
  }
  return MapFile(fd, n_bytes);
}

}  // namespace

absl::StatusOr<std::vector<MappedMemory>> ShareMemory(Communicator& communicator, const HostMap& hosts,
                                                      const std::string& dir, const std::string& what, size_t n_bytes) {
  const int rank = communicator.rank();
  const auto path = [&](int r) { return absl::StrCat(dir, "/", what, "-", r); };
  absl::StatusOr<MappedMemory> made = MakeFile(path(rank), what, n_bytes);
  // Everybody or nobody: a shard that went on alone would wait for ever.
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator, std::string(made.status().message())));
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    // Shared memory that nobody is going to use.
    if (made.ok()) unlink(path(rank).c_str());
    return absl::ResourceExhaustedError(absl::StrCat("shard ", r, ": ", all[r]));
  }
  std::vector<MappedMemory> out(all.size());
  out[static_cast<size_t>(rank)] = *std::move(made);
  for (int r = 0; r < hosts.n_ranks(); ++r) {
    if (r == rank || hosts.host_of(r) != hosts.host_of(rank)) continue;
    const int fd = open(path(r).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return SystemError(what, path(r));
    ASSIGN_OR_RETURN(out[static_cast<size_t>(r)], MapFile(fd, n_bytes));
  }
  RETURN_IF_ERROR(communicator.Barrier());
  unlink(path(rank).c_str());
  return out;
}

}  // namespace longshelf::engine
