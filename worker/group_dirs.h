#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "process_tree.h"

namespace longshelf::worker {

// What one generation of a group writes to; all private (0700) and gone after its end.
struct GenerationDirs {
  std::filesystem::path run;
  std::filesystem::path shm;
  std::filesystem::path tmp;
};

// The directories of one supervisor: ROOT/NAME for small files and SHM_ROOT/longshelf-UID-NAME for shared memory, both
// removed by the destructor. ROOT is shared with other workers of this user; a locked file in each directory says whose
// supervisor lives, so what a killed one left behind, processes included, is cleaned by whoever starts next.
class GroupDirs {
 public:
  // PERMISSION_DENIED: root exists and is not a private directory of this user.
  static absl::StatusOr<std::unique_ptr<GroupDirs>> Open(const std::filesystem::path& root,
                                                         const std::filesystem::path& shm_root);
  ~GroupDirs();
  GroupDirs(const GroupDirs&) = delete;
  GroupDirs& operator=(const GroupDirs&) = delete;

  // `shm_bytes`: what MPI needs; with less room in shm_root the segments go below root, on disk.
  absl::StatusOr<GenerationDirs> Make(uint64_t generation, uint64_t shm_bytes);
  void Remove(uint64_t generation);
  const std::filesystem::path& dir() const { return dir_; }

 private:
  GroupDirs(std::filesystem::path dir, std::filesystem::path shm_dir, OwnedFd lock)
      : dir_(std::move(dir)), shm_dir_(std::move(shm_dir)), lock_(std::move(lock)) {}

  const std::filesystem::path dir_;
  const std::filesystem::path shm_dir_;
  const OwnedFd lock_;
};

}  // namespace longshelf::worker
