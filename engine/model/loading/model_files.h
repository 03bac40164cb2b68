#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace longshelf::engine {

// Closes its descriptor.
class OpenFile {
 public:
  OpenFile(int fd, uint64_t size) : fd_(fd), size_(size) {}
  OpenFile(OpenFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile();

  int fd() const { return fd_; }
  // The caller closes it.
  int Release() { return std::exchange(fd_, -1); }
  uint64_t size() const { return size_; }

 private:
  int fd_;
  uint64_t size_;  // when it was opened
};

// Opens a regular file for reading. NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT (not a regular file); names the
// path.
absl::StatusOr<OpenFile> OpenRegularFile(const std::filesystem::path& path);

// The same for a name that came out of a file: it must stay below `dir`. Refuses absolute names, "..", NUL, and
// symbolic links that leave the directory (SEC-53), but for those of Hugging Face's cache, where a file of
// models--X/snapshots/REVISION is a link to a file of models--X/blobs.
absl::StatusOr<OpenFile> OpenBeneath(const std::filesystem::path& dir, std::string_view name);

// What Git leaves in the place of a large file that was not fetched. INVALID_ARGUMENT when `content` is one.
absl::Status RefuseLfsPointer(std::string_view content);

// Whole content of a file below `dir`. RESOURCE_EXHAUSTED when it is longer than max_bytes.
absl::StatusOr<std::string> ReadBeneath(const std::filesystem::path& dir, std::string_view name, uint64_t max_bytes);

}  // namespace longshelf::engine
