#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace longshelf::router {

// Bytes that may be kept at one time. A share is given back when the last copy of it goes, on any thread.
class ByteBudget {
 public:
  using Share = std::shared_ptr<const void>;

  explicit ByteBudget(uint64_t n_bytes_max) : n_bytes_max_(n_bytes_max) {}

  // One alone may be larger than all there is.
  bool HasRoomFor(uint64_t n_bytes) const {
    const uint64_t n_taken = *n_taken_;
    return n_taken == 0 || n_taken + n_bytes <= n_bytes_max_;
  }
  Share Take(uint64_t n_bytes) {
    *n_taken_ += n_bytes;
    return {n_taken_.get(), [n_bytes, n_taken = n_taken_](const void*) { *n_taken -= n_bytes; }};
  }

 private:
  const uint64_t n_bytes_max_;
  const std::shared_ptr<std::atomic<uint64_t>> n_taken_ = std::make_shared<std::atomic<uint64_t>>(0);
};

}  // namespace longshelf::router
