#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "disk/file_system.h"

namespace longshelf::kvstore::disk {

// Files in memory that remember what a loss of power may take: every write since the last sync of its file, in parts of
// 512 bytes or 4 KiB and in any order, and every name that was created, removed or renamed since the last sync of its
// directory. Faults are set between operations. Thread safe.
class MemoryFileSystem final : public FileSystem {
 public:
  // What an operation is about to do; a status that is not OK is returned instead.
  enum class Operation { kRead, kWrite, kSync, kPreallocate, kRemove, kRename, kSyncDirectory };
  using Fault = std::function<absl::Status(Operation)>;

  // `fault` is called outside the lock: it may wait.
  void SetFault(Fault fault);
  // Each write or read transfers only a part, when there is more than one sector.
  void SetShortTransfers(bool on);
  // Bytes that Preallocate may set aside.
  void SetCapacity(uint64_t n_bytes);

  // The power goes: every operation fails from now on, and this is what the device holds. Of what was not synced, each
  // part is there with the probability `p_kept`.
  std::unique_ptr<MemoryFileSystem> LosePower(std::mt19937_64& random, double p_kept);

  // Reads of these bytes of a file fail from now on, as on a device with a bad sector.
  void MakeUnreadable(const std::string& path, uint64_t offset, uint64_t n_bytes);
  void MakeAllReadable();

  // The bytes of a file, for tests that damage them.
  std::vector<std::byte>& Bytes(const std::string& path);
  std::vector<std::string> Paths() const;

  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, bool create) override;
  absl::StatusOr<std::unique_ptr<DirectoryLock>> Lock(const std::string& directory) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status CreateDirectory(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override;
  absl::Status SyncDirectory(const std::string& directory) override;

 private:
  class Handle;
  struct UnsyncedWrite {
    uint64_t offset;
    std::vector<std::byte> bytes;
  };
  struct Contents {
    std::vector<std::byte> bytes;
    std::vector<std::byte> durable;
    std::vector<UnsyncedWrite> unsynced;
    std::vector<std::pair<uint64_t, uint64_t>> unreadable;  // begin and end
  };
  using Entries = std::map<std::string, std::shared_ptr<Contents>>;

  absl::Status Check(Operation operation);

  mutable std::mutex mutex_;  // guards everything: tests run threads over one file system
  Entries files_;
  Entries durable_files_;  // what the directories held when they were last synced
  Fault fault_;
  bool short_transfers_ = false;
  bool power_lost_ = false;
  uint64_t capacity_ = UINT64_MAX;
  uint64_t allocated_ = 0;
};

}  // namespace longshelf::kvstore::disk
