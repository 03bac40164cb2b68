#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace longshelf::net {

// A file that is in this process's memory only, for libraries that want a path and read it again and again. Its content
// is replaced as a whole: whoever opens the path sees the old one or the new one, and each has a time of last change
// of its own, in whole seconds, so that two reads can be told to be of one content. One thread replaces.
//
// The descriptor is never closed: a reader may outlive its owner for a moment, and must not find another file under the
// path, whose number would be given out again.
class MemoryFile {
 public:
  // UNAVAILABLE: no descriptor or no memory.
  static absl::StatusOr<MemoryFile> Create(std::string_view content);
  absl::Status Replace(std::string_view content);
  std::string path() const;

 private:
  explicit MemoryFile(int fd) : fd_(fd) {}

  int fd_;
  int n_contents_ = 1;
};

}  // namespace longshelf::net
