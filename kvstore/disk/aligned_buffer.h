#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

#include "common/check.h"

namespace longshelf::kvstore::disk {

// What the device reads and writes at once; records and everything else start at multiples of it.
inline constexpr size_t kSectorBytes = 4096;

constexpr size_t PaddedBytes(size_t n_bytes) { return (n_bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes; }

// Memory that direct I/O takes: starts at a multiple of kSectorBytes and is as many bytes. Not initialised.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Of at least n_bytes.
  explicit AlignedBuffer(size_t n_bytes)
      : n_bytes_(PaddedBytes(n_bytes)),
        bytes_(static_cast<std::byte*>(n_bytes_ == 0 ? nullptr : std::aligned_alloc(kSectorBytes, n_bytes_))) {
    LONGSHELF_CHECK(n_bytes_ == 0 || bytes_ != nullptr);
  }

  size_t size() const { return n_bytes_; }
  std::span<std::byte> span() { return {bytes_.get(), n_bytes_}; }
  std::span<const std::byte> span() const { return {bytes_.get(), n_bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  size_t n_bytes_ = 0;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace longshelf::kvstore::disk
