#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longshelf::engine {

// How another process of this machine finds memory that has no name: it lives as long as somebody maps it, so nothing
// is left behind however its owner ends.
struct HugeMemoryAddress {
  pid_t pid = 0;  // of its owner, which keeps it open
  int fd = -1;    // in that process
  uint64_t n_bytes = 0;
};

// Memory in huge pages, filled by its owner and then sealed: from then on nobody can change it. Reserved huge pages are
// tried first, then transparent ones, and as a last resort pages of ordinary size.
class HugeMemory {
 public:
  enum class Pages : uint8_t { kReserved, kTransparent, kOrdinary, kOfOwner };

  // RESOURCE_EXHAUSTED: the kernel does not give as much; nothing was allocated yet.
  static absl::StatusOr<std::unique_ptr<HugeMemory>> Create(uint64_t n_bytes);
  // PERMISSION_DENIED: /proc does not let us open it. FAILED_PRECONDITION: it is not sealed memory of this size.
  static absl::StatusOr<std::unique_ptr<HugeMemory>> Open(const HugeMemoryAddress& address);
  ~HugeMemory();
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;

  // Before Seal, by its owner.
  uint8_t* writable() { return data_; }
  const uint8_t* data() const { return data_; }
  uint64_t n_bytes() const { return n_bytes_; }

  // Makes the pages of [begin, begin + n) exist before they are written, in huge ones where that can be had. Any
  // thread. RESOURCE_EXHAUSTED: no more of them.
  absl::Status Populate(uint64_t begin, uint64_t n);
  // Ends writing: no copy of the descriptor can be written from now on. Moves data().
  absl::Status Seal();
  HugeMemoryAddress address() const;

  Pages pages() const { return pages_; }
  // One line for the log: what was got, and what would have to be done for more.
  std::string Describe() const;

 private:
  HugeMemory(int fd, uint64_t n_bytes, uint64_t page_bytes, Pages pages)
      : fd_(fd), n_bytes_(n_bytes), page_bytes_(page_bytes), pages_(pages) {}
  static absl::StatusOr<std::unique_ptr<HugeMemory>> Reserve(uint64_t n_bytes, Pages pages);
  absl::Status Map(int protection);
  uint64_t CountHugeBytes() const;

  const int fd_;
  const uint64_t n_bytes_;  // whole pages
  const uint64_t page_bytes_;
  Pages pages_;
  uint64_t huge_bytes_ = 0;  // as counted when it was sealed
  uint8_t* data_ = nullptr;
};

}  // namespace longshelf::engine
