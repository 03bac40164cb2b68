#include "huge_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "common/status.h"
#include "text.h"

// Younger than the headers of Debian 12.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace longshelf::engine {
namespace {

constexpr uint64_t kTransparentBytes = uint64_t{2} << 20;
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

uint64_t RoundUp(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

absl::Status Exhausted(uint64_t n_bytes, std::string_view what, int error) {
  return absl::ResourceExhaustedError(Cat("huge pages for ", n_bytes, " bytes of weights: ", what, ": ",
                                          std::strerror(error),
                                          "; give the machine more memory, or use --weights mapped"));
}

double GiB(uint64_t n_bytes) { return static_cast<double>(n_bytes) / static_cast<double>(uint64_t{1} << 30); }

}  // namespace

absl::StatusOr<std::unique_ptr<HugeMemory>> HugeMemory::Reserve(uint64_t n_bytes, Pages pages) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (pages == Pages::kReserved ? MFD_HUGETLB : 0U);
  const int fd = memfd_create("longshelf-weights", flags);
  if (fd < 0) return Exhausted(n_bytes, "memfd_create", errno);
  struct stat info {};
  // A file of reserved huge pages has blocks of their size.
  uint64_t page_bytes = kTransparentBytes;
  if (pages == Pages::kReserved && fstat(fd, &info) == 0) page_bytes = static_cast<uint64_t>(info.st_blksize);
  std::unique_ptr<HugeMemory> memory(new HugeMemory(fd, RoundUp(n_bytes, page_bytes), page_bytes, pages));
  if (ftruncate(fd, static_cast<off_t>(memory->n_bytes_)) != 0) return Exhausted(n_bytes, "ftruncate", errno);
  // For reserved pages this is where they are set aside, all of them or none.
  RETURN_IF_ERROR(memory->Map(PROT_READ | PROT_WRITE));
  return memory;
}

absl::StatusOr<std::unique_ptr<HugeMemory>> HugeMemory::Create(uint64_t n_bytes) {
  absl::StatusOr<std::unique_ptr<HugeMemory>> reserved = Reserve(n_bytes, Pages::kReserved);
  if (reserved.ok()) return reserved;
  ASSIGN_OR_RETURN(std::unique_ptr<HugeMemory> memory, Reserve(n_bytes, Pages::kTransparent));
  madvise(memory->data_, memory->n_bytes_, MADV_HUGEPAGE);
  return memory;
}

absl::StatusOr<std::unique_ptr<HugeMemory>> HugeMemory::Open(const HugeMemoryAddress& address) {
  const std::string path = Cat("/proc/", address.pid, "/fd/", address.fd);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::PermissionDeniedError(Cat("cannot map the weights that process ", address.pid, " copied: ", path, ": ",
                                           std::strerror(errno), "; use --weights mapped"));
  }
  struct stat info {};
  const bool known = fstat(fd, &info) == 0 && static_cast<uint64_t>(info.st_size) == address.n_bytes;
  const auto page_bytes = static_cast<uint64_t>(info.st_blksize);
  std::unique_ptr<HugeMemory> memory(new HugeMemory(fd, address.n_bytes, page_bytes, Pages::kOfOwner));
  if (!known || fcntl(fd, F_GET_SEALS) != kSeals) {
    return absl::FailedPreconditionError(
        Cat(path, ": is not the sealed memory of ", address.n_bytes, " bytes that it was announced to be"));
  }
  RETURN_IF_ERROR(memory->Map(PROT_READ));
  return memory;
}

HugeMemory::~HugeMemory() {
  if (data_ != nullptr) munmap(data_, n_bytes_);
  close(fd_);
}

// Aligned to huge pages, or the kernel could not map them as such. Reserved ones it aligns by itself, and it must not
// be asked for them in place of another mapping: where there are too few, it has taken that away before it says so, and
// another thread may have been given the place.
absl::Status HugeMemory::Map(int protection) {
  const uint64_t alignment = std::max(page_bytes_, kTransparentBytes);
  void* const anywhere = mmap(nullptr, n_bytes_, protection, MAP_SHARED, fd_, 0);
  if (anywhere == MAP_FAILED) return Exhausted(n_bytes_, "mmap", errno);
  if (reinterpret_cast<uintptr_t>(anywhere) % alignment == 0) {
    data_ = static_cast<uint8_t*>(anywhere);
    return absl::OkStatus();
  }
  munmap(anywhere, n_bytes_);
  const uint64_t n_reserved = n_bytes_ + alignment;
  void* const area = mmap(nullptr, n_reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return Exhausted(n_bytes_, "address space", errno);
  auto* const begin = static_cast<uint8_t*>(area);
  auto* const aligned = reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<uintptr_t>(begin), alignment));
  void* const data = mmap(aligned, n_bytes_, protection, MAP_SHARED | MAP_FIXED, fd_, 0);
  const int error = errno;
  if (aligned > begin) munmap(begin, static_cast<size_t>(aligned - begin));
  munmap(aligned + n_bytes_, n_reserved - n_bytes_ - static_cast<size_t>(aligned - begin));
  if (data == MAP_FAILED) return Exhausted(n_bytes_, "mmap", error);
  data_ = aligned;
  return absl::OkStatus();
}

absl::Status HugeMemory::Populate(uint64_t begin, uint64_t n) {
  const uint64_t first = begin / page_bytes_ * page_bytes_;
  const uint64_t end = RoundUp(begin + n, page_bytes_);
  if (pages_ == Pages::kTransparent) {
    // A page with anything in it can be made a huge one whatever the policy for shared memory is; an empty one cannot.
    const auto small_page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (uint64_t at = first; at < end; at += page_bytes_) {
      madvise(data_ + at, small_page, MADV_POPULATE_WRITE);
      madvise(data_ + at, page_bytes_, MADV_COLLAPSE);
    }
  }
  // An error instead of a signal when there are no more. Kernels before 5.14 do not know it.
  if (madvise(data_ + first, end - first, MADV_POPULATE_WRITE) == 0 || errno == EINVAL) return absl::OkStatus();
  return Exhausted(n_bytes_, "populating", errno);
}

// Of the mapping, by the kernel's own account.
uint64_t HugeMemory::CountHugeBytes() const {
  std::ifstream smaps("/proc/self/smaps");
  const std::string head = absl::StrFormat("%x-", reinterpret_cast<uintptr_t>(data_));
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    ours = ours || absl::StartsWith(line, head);
    if (ours && absl::StartsWith(line, "ShmemPmdMapped:")) {
      return std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10) * 1024;
    }
  }
  return 0;
}

absl::Status HugeMemory::Seal() {
  if (pages_ == Pages::kTransparent) {
    huge_bytes_ = CountHugeBytes();
    if (huge_bytes_ == 0) pages_ = Pages::kOrdinary;
  }
  munmap(data_, n_bytes_);
  data_ = nullptr;
  if (fcntl(fd_, F_ADD_SEALS, kSeals) != 0) {
    return absl::InternalError(Cat("sealing the weights: ", std::strerror(errno)));
  }
  return Map(PROT_READ);
}

HugeMemoryAddress HugeMemory::address() const { return {getpid(), fd_, n_bytes_}; }

std::string HugeMemory::Describe() const {
  switch (pages_) {
    case Pages::kReserved:
      return absl::StrFormat("%.2f GiB in reserved huge pages of %d KiB", GiB(n_bytes_), page_bytes_ >> 10);
    case Pages::kTransparent:
      return absl::StrFormat(
          "%.2f of %.2f GiB in transparent huge pages (none reserved; vm.nr_hugepages reserves them)", GiB(huge_bytes_),
          GiB(n_bytes_));
    case Pages::kOfOwner:
      return absl::StrFormat("%.2f GiB in the pages of another shard", GiB(n_bytes_));
    case Pages::kOrdinary:
      break;
  }
  return absl::StrFormat(
      "%.2f GiB in pages of ordinary size: none are reserved (vm.nr_hugepages) and the kernel gives no transparent "
      "ones "
      "(transparent_hugepage/shmem_enabled)",
      GiB(n_bytes_));
}

}  // namespace longshelf::engine
