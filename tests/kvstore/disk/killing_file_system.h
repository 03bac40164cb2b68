#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "disk/posix_file_system.h"
#include "disk/record_format.h"

namespace longshelf::kvstore::disk {

// Where a process can be killed. Between the write of a record and the next sync it enters the index.
enum class KillPoint {
  kNever,
  kBeforeWrite,
  kInWrite,
  kAfterWrite,
  kBeforeSync,
  kAfterSync,
  kBeforeAcknowledgement,
  kAfterAcknowledgement,
  kBeforeSuperblock,
  kAfterSuperblock,
  kBeforeFooter,
  kAfterFooter,
  kBeforeTrailer,
  kAfterTrailer,
  kBeforeAllocate,
  kAfterAllocate,
  kBeforeSyncDirectory,
  kAfterSyncDirectory,
  kBeforeRename,
  kAfterRename,
  kBeforeRemove,
  kAfterRemove,
  kPoints
};

// How often a process passes a point, about, before it has written ten objects of each kind.
inline uint64_t PassesOf(KillPoint point) {
  if (point < KillPoint::kBeforeSuperblock) return 16;  // once per group of records
  return point < KillPoint::kBeforeAllocate ? 3 : 2;    // once per segment; at the start
}

using KillHit = std::function<void(KillPoint)>;

// Of a file that is not one segment long, no write is of a segment's structure.
class KillingFile final : public File {
 public:
  KillingFile(std::unique_ptr<File> file, uint64_t segment_bytes, KillHit hit)
      : file_(std::move(file)), segment_bytes_(segment_bytes), hit_(std::move(hit)) {}

  absl::StatusOr<size_t> ReadSome(uint64_t offset, std::span<std::byte> out) override {
    return file_->ReadSome(offset, out);
  }

  absl::StatusOr<size_t> WriteSome(uint64_t offset, std::span<const std::span<const std::byte>> pieces) override {
    const auto [before, after] = PointsOf(offset, pieces[0]);
    hit_(before);
    // One time all of it, as the log asks for it; the next time the first half only, then the point.
    const std::span<const std::byte> half[] = {pieces[0].first(PaddedBytes(pieces[0].size() / 2))};
    const auto all_or_half = pieces.size() == 1 ? half : pieces.first(pieces.size() / 2);
    const auto written = file_->WriteSome(offset, n_writes_++ % 2 == 0 ? pieces : all_or_half);
    uint64_t n_bytes = 0;
    for (const auto piece : pieces) n_bytes += piece.size();
    hit_(written.ok() && *written == n_bytes ? after : KillPoint::kInWrite);
    return written;
  }

  absl::Status SyncData() override {
    hit_(KillPoint::kBeforeSync);
    const absl::Status status = file_->SyncData();
    hit_(KillPoint::kAfterSync);
    return status;
  }

  absl::Status Preallocate(uint64_t n_bytes) override {
    hit_(KillPoint::kBeforeAllocate);
    const absl::Status status = file_->Preallocate(n_bytes);
    hit_(KillPoint::kAfterAllocate);
    return status;
  }

  absl::StatusOr<uint64_t> Size() override { return file_->Size(); }

 private:
  std::pair<KillPoint, KillPoint> PointsOf(uint64_t offset, std::span<const std::byte> bytes) const {
    if (offset == 0) return {KillPoint::kBeforeSuperblock, KillPoint::kAfterSuperblock};
    if (offset == segment_bytes_ - kSectorBytes) return {KillPoint::kBeforeTrailer, KillPoint::kAfterTrailer};
    const bool is_record = ParseRecordHeader(bytes.first<kSectorBytes>()).ok();
    return is_record ? std::pair(KillPoint::kBeforeWrite, KillPoint::kAfterWrite)
                     : std::pair(KillPoint::kBeforeFooter, KillPoint::kAfterFooter);
  }

  const std::unique_ptr<File> file_;
  const uint64_t segment_bytes_;
  const KillHit hit_;
  std::atomic<uint64_t> n_writes_ = 0;
};

// Real files, in a process that is killed when it has passed a point so many times.
class KillingFileSystem final : public FileSystem {
 public:
  KillingFileSystem(std::unique_ptr<FileSystem> files, uint64_t segment_bytes, KillPoint point, uint64_t n_passes)
      : files_(std::move(files)), segment_bytes_(segment_bytes), point_(point), n_passes_left_(n_passes) {}

  void Hit(KillPoint point) {
    if (point == point_ && n_passes_left_-- == 0) (void)raise(SIGKILL);
  }

  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, bool create) override {
    auto file = files_->Open(path, create);
    if (!file.ok()) return file.status();
    return std::make_unique<KillingFile>(*std::move(file), segment_bytes_, [this](KillPoint point) { Hit(point); });
  }
  absl::StatusOr<std::unique_ptr<DirectoryLock>> Lock(const std::string& directory) override {
    return files_->Lock(directory);
  }
  absl::Status Remove(const std::string& path) override {
    Hit(KillPoint::kBeforeRemove);
    const absl::Status status = files_->Remove(path);
    Hit(KillPoint::kAfterRemove);
    return status;
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    Hit(KillPoint::kBeforeRename);
    const absl::Status status = files_->Rename(from, to);
    Hit(KillPoint::kAfterRename);
    return status;
  }
  absl::Status CreateDirectory(const std::string& path) override { return files_->CreateDirectory(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    return files_->List(directory);
  }
  absl::Status SyncDirectory(const std::string& directory) override {
    Hit(KillPoint::kBeforeSyncDirectory);
    const absl::Status status = files_->SyncDirectory(directory);
    Hit(KillPoint::kAfterSyncDirectory);
    return status;
  }

 private:
  const std::unique_ptr<FileSystem> files_;
  const uint64_t segment_bytes_;
  const KillPoint point_;
  std::atomic<uint64_t> n_passes_left_;
};

}  // namespace longshelf::kvstore::disk
