#pragma once

#include "file_system.h"

namespace longshelf::kvstore::disk {

// Whether files bypass the page cache: kAuto asks each file system and logs when it does not allow it.
enum class DirectIo { kAuto, kNever };

// Whether writes go through io_uring: kAuto tries, and logs which it is.
enum class WriteMethod { kAuto, kPwrite };

// The operating system's files. Every call blocks its thread.
std::unique_ptr<FileSystem> MakePosixFileSystem(DirectIo direct, WriteMethod method = WriteMethod::kAuto);

}  // namespace longshelf::kvstore::disk
