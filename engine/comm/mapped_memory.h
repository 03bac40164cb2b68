#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace longshelf::engine {

// Pages that unmap themselves.
class MappedMemory {
 public:
  MappedMemory() = default;
  // Of this process alone, taken when they are first written.
  static absl::StatusOr<MappedMemory> Private(size_t n_bytes) { return Map(-1, n_bytes); }
  // Of a file, seen by all that map it; the file may be closed then.
  static absl::StatusOr<MappedMemory> Shared(int fd, size_t n_bytes) { return Map(fd, n_bytes); }
  MappedMemory(MappedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), n_bytes_(std::exchange(other.n_bytes_, 0)) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(n_bytes_, other.n_bytes_);
    return *this;
  }
  ~MappedMemory();

  // Page aligned; null: none.
  std::byte* data() const { return data_; }

 private:
  static absl::StatusOr<MappedMemory> Map(int fd, size_t n_bytes);
  std::byte* data_ = nullptr;
  size_t n_bytes_ = 0;
};

}  // namespace longshelf::engine
