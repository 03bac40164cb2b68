#include "mapped_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {

absl::StatusOr<MappedMemory> MappedMemory::Map(int fd, size_t n_bytes) {
  // Shared memory is all there, so that the first exchanges find it mapped.
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
  void* address = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, kind, fd, 0);
  if (address == MAP_FAILED) {
    return absl::UnavailableError(absl::StrCat("cannot map ", n_bytes, " bytes: ", strerror(errno)));
  }
  MappedMemory out;
  out.data_ = static_cast<std::byte*>(address);
  out.n_bytes_ = n_bytes;
  return out;
}

MappedMemory::~MappedMemory() {
  if (data_ != nullptr) munmap(data_, n_bytes_);
}

}  // namespace longshelf::engine
