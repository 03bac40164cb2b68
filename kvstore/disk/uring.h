#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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
  // Hands what is queued to the kernel and waits for so many to be done: how many it took, or a negative errno. Tests
  // have kernels without memory.
  using Submit = std::function<int(io_uring* ring, unsigned n_done)>;

  // UNAVAILABLE: the kernel has none, or does not allow it here; containers often do not. `submit`: null for the
  // kernel's.
  static absl::StatusOr<std::unique_ptr<Uring>> Create(Submit submit = nullptr);
  ~Uring();

  // The bytes of the first pieces that are written whole, and of the next as far as it is; 0 when none is. Errors are
  // errno, as a negative number; EAGAIN: the kernel took none now.
  int64_t Write(int fd, uint64_t offset, std::span<const std::span<const std::byte>> pieces);

 private:
  Uring(std::unique_ptr<io_uring> ring, Submit submit);
  // With nothing queued, when the kernel did not take all.
  void Renew();

  std::mutex mutex_;  // guards the ring: its queues are one caller's at a time
  const std::unique_ptr<io_uring> ring_;
  const Submit submit_;
  bool usable_ = true;  // renewed
};

}  // namespace longshelf::kvstore::disk
