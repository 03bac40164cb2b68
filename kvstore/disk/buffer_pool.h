#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>

#include "aligned_buffer.h"

namespace longshelf::kvstore::disk {

// Buffers of records that were written, for those that come next: the kernel takes longer to hand out and clear a new
// megabyte than to write it. Most records are of one size, so only a buffer of the very size is used again.
class BufferPool {
 public:
  // Keeps so many bytes at most.
  explicit BufferPool(size_t bytes_max) : bytes_max_(bytes_max) {}

  // Of PaddedBytes(n_bytes); what is in it is anything.
  AlignedBuffer Take(size_t n_bytes);
  // Those that were given first go when there are too many.
  void Give(AlignedBuffer buffer);
  size_t n_bytes() const;

 private:
  const size_t bytes_max_;
  mutable std::mutex mutex_;  // between the threads that put and the writer, for moves in a list
  std::deque<AlignedBuffer> kept_;
  size_t kept_bytes_ = 0;
};

}  // namespace longshelf::kvstore::disk
