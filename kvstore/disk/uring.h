#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "absl/status/statusor.h"

struct io_uring;

namespace longshelf::kvstore::disk {

// Writes several pieces at once through the kernel's io_uring, so that the device always has the next one. Thread safe,
// though one write waits for the one before; the log is its only user.
class Uring {
 public:
  // UNAVAILABLE: the kernel has none, or does not allow it here; containers often do not.
  static absl::StatusOr<std::unique_ptr<Uring>> Create();
  ~Uring();

  // The bytes of the first pieces that are written whole, and of the next as far as it is; 0 when none is. Errors are
  // errno, as a negative number.
  int64_t Write(int fd, uint64_t offset, std::span<const std::span<const std::byte>> pieces);

 private:
  explicit Uring(std::unique_ptr<io_uring> ring);

  std::mutex mutex_;  // guards the ring: its queues are one caller's at a time
  const std::unique_ptr<io_uring> ring_;
};

}  // namespace longshelf::kvstore::disk
