#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longshelf::kvstore::disk {

// One open file. Offsets, sizes and addresses are multiples of kSectorBytes, so that an implementation may bypass the
// page cache. Reads and writes of different ranges may run side by side on different threads.
// Errors: RESOURCE_EXHAUSTED (no space), DATA_LOSS (the device failed), anything else as errno says.
class File {
 public:
  virtual ~File() = default;
  // How many bytes were read or written, which may be fewer than asked for; 0 read: past the end.
  virtual absl::StatusOr<size_t> ReadSome(uint64_t offset, std::span<std::byte> out) = 0;
  // The pieces one after another.
  virtual absl::StatusOr<size_t> WriteSome(uint64_t offset, std::span<const std::span<const std::byte>> pieces) = 0;
  // What was written before is on the device once this returns OK. After a failure nobody knows what is.
  virtual absl::Status SyncData() = 0;
  // Makes the file that long, with its space set aside.
  virtual absl::Status Preallocate(uint64_t n_bytes) = 0;
  virtual absl::StatusOr<uint64_t> Size() = 0;

  absl::Status ReadFully(uint64_t offset, std::span<std::byte> out);
  absl::Status WriteFully(uint64_t offset, std::vector<std::span<const std::byte>> pieces);
};

// Held while it lives.
class DirectoryLock {
 public:
  virtual ~DirectoryLock() = default;
};

// All that the disk tier asks of an operating system; tests put faults here.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Creates the file when it is absent and `create` is set; NOT_FOUND otherwise.
  virtual absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, bool create) = 0;
  // UNAVAILABLE: another process has it.
  virtual absl::StatusOr<std::unique_ptr<DirectoryLock>> Lock(const std::string& directory) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
  // Within a directory. Of a loss of power before SyncDirectory, `to` is whole: what it was, or what `from` was.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status CreateDirectory(const std::string& path) = 0;  // with its parents; OK when it is there
  // Names, not paths, in no particular order.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& directory) = 0;
  // What was created or removed in the directory before stays so after a loss of power.
  virtual absl::Status SyncDirectory(const std::string& directory) = 0;
};

}  // namespace longshelf::kvstore::disk
