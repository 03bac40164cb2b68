#pragma once

#include "file_system.h"

namespace longshelf::kvstore::disk {

// Whether files bypass the page cache: kAuto asks each file system and logs when it does not allow it.
enum class DirectIo { kAuto, kNever };

// The operating system's files, by pread and pwrite. Every call blocks its thread.
std::unique_ptr<FileSystem> MakePosixFileSystem(DirectIo direct);

}  // namespace longshelf::kvstore::disk
