#include "memory_file_system.h"

#include <algorithm>
#include <cstring>

#include "disk/aligned_buffer.h"

namespace longshelf::kvstore::disk {
namespace {

// And not in one of its subdirectories.
bool IsIn(const std::string& directory, const std::string& path) {
  return path.starts_with(directory + "/") && path.find('/', directory.size() + 1) == std::string::npos;
}

}  // namespace

class MemoryFileSystem::Handle final : public File {
 public:
  Handle(MemoryFileSystem& file_system, std::shared_ptr<Contents> contents)
      : file_system_(file_system), contents_(std::move(contents)) {}

  absl::StatusOr<size_t> ReadSome(uint64_t offset, std::span<std::byte> out) override {
    if (absl::Status status = file_system_.Check(Operation::kRead); !status.ok()) return status;
    std::lock_guard lock(file_system_.mutex_);
    if (offset >= contents_->bytes.size()) return size_t{0};
    const size_t n = Shorten(std::min<size_t>(out.size(), contents_->bytes.size() - offset));
    for (const auto& [begin, end] : contents_->unreadable) {
      if (offset < end && begin < offset + n) return absl::DataLossError("a bad sector");
    }
    std::memcpy(out.data(), contents_->bytes.data() + offset, n);
    return n;
  }

  absl::StatusOr<size_t> WriteSome(uint64_t offset, std::span<const std::span<const std::byte>> pieces) override {
    if (absl::Status status = file_system_.Check(Operation::kWrite); !status.ok()) return status;
    std::lock_guard lock(file_system_.mutex_);
    UnsyncedWrite write{offset, {}};
    for (const auto piece : pieces) write.bytes.insert(write.bytes.end(), piece.begin(), piece.end());
    write.bytes.resize(Shorten(write.bytes.size()));
    const size_t n = write.bytes.size();
    if (contents_->bytes.size() < offset + n) contents_->bytes.resize(offset + n);
    std::memcpy(contents_->bytes.data() + offset, write.bytes.data(), n);
    contents_->unsynced.push_back(std::move(write));
    return n;
  }

  absl::Status SyncData() override {
    if (absl::Status status = file_system_.Check(Operation::kSync); !status.ok()) return status;
    std::lock_guard lock(file_system_.mutex_);
    contents_->durable = contents_->bytes;
    contents_->unsynced.clear();
    return absl::OkStatus();
  }

  absl::Status Preallocate(uint64_t n_bytes) override {
    if (absl::Status status = file_system_.Check(Operation::kPreallocate); !status.ok()) return status;
    std::lock_guard lock(file_system_.mutex_);
    if (file_system_.allocated_ + n_bytes > file_system_.capacity_) return absl::ResourceExhaustedError("full");
    file_system_.allocated_ += n_bytes;
    contents_->bytes.resize(n_bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Size() override {
    std::lock_guard lock(file_system_.mutex_);
    return contents_->bytes.size();
  }

 private:
  size_t Shorten(size_t n) const { return file_system_.short_transfers_ && n > kSectorBytes ? PaddedBytes(n / 3) : n; }

  MemoryFileSystem& file_system_;
  const std::shared_ptr<Contents> contents_;
};

void MemoryFileSystem::SetFault(Fault fault) {
  std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}

void MemoryFileSystem::SetShortTransfers(bool on) {
  std::lock_guard lock(mutex_);
  short_transfers_ = on;
}

void MemoryFileSystem::SetCapacity(uint64_t n_bytes) {
  std::lock_guard lock(mutex_);
  capacity_ = n_bytes;
}

absl::Status MemoryFileSystem::Check(Operation operation) {
  Fault fault;
  {
    std::lock_guard lock(mutex_);
    if (power_lost_) return absl::DataLossError("no power");
    fault = fault_;
  }
  return fault ? fault(operation) : absl::OkStatus();
}

std::unique_ptr<MemoryFileSystem> MemoryFileSystem::LosePower(std::mt19937_64& random, double p_kept) {
  auto image = std::make_unique<MemoryFileSystem>();
  std::uniform_real_distribution<double> unit(0, 1);
  std::lock_guard lock(mutex_);
  power_lost_ = true;
  // Either of what a name stands for: the latest, or what it stood for at the last sync of its directory.
  Entries kept = durable_files_;
  for (const auto& [path, contents] : files_) {
    if (unit(random) < p_kept) kept[path] = contents;
  }
  for (const auto& [path, contents] : durable_files_) {
    if (!files_.contains(path) && unit(random) < p_kept) kept.erase(path);
  }
  for (const auto& [path, contents] : kept) {
    auto copy = std::make_shared<Contents>();
    copy->bytes = contents->durable;
    // The length is metadata: a file that was never synced may have lost it.
    const bool entry_durable = durable_files_.contains(path) && durable_files_.at(path) == contents;
    if (copy->bytes.size() < contents->bytes.size() && (entry_durable || unit(random) < p_kept)) {
      copy->bytes.resize(contents->bytes.size());
    }
    for (const UnsyncedWrite& write : contents->unsynced) {
      const size_t part = random() % 2 == 0 ? 512 : 4096;
      for (size_t at = 0; at < write.bytes.size(); at += part) {
        const size_t n = std::min(part, write.bytes.size() - at);
        if (unit(random) >= p_kept || write.offset + at + n > copy->bytes.size()) continue;
        std::memcpy(copy->bytes.data() + write.offset + at, write.bytes.data() + at, n);
      }
    }
    copy->durable = copy->bytes;
    image->allocated_ += copy->bytes.size();
    image->files_.emplace(path, std::move(copy));
  }
  image->durable_files_ = image->files_;
  return image;
}

void MemoryFileSystem::MakeUnreadable(const std::string& path, uint64_t offset, uint64_t n_bytes) {
  std::lock_guard lock(mutex_);
  files_.at(path)->unreadable.emplace_back(offset, offset + n_bytes);
}

void MemoryFileSystem::MakeAllReadable() {
  std::lock_guard lock(mutex_);
  for (const auto& [path, contents] : files_) contents->unreadable.clear();
}

std::vector<std::byte>& MemoryFileSystem::Bytes(const std::string& path) {
  std::lock_guard lock(mutex_);
  return files_.at(path)->bytes;
}

std::vector<std::string> MemoryFileSystem::Paths() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> paths;
  for (const auto& [path, contents] : files_) paths.push_back(path);
  return paths;
}

absl::StatusOr<std::unique_ptr<File>> MemoryFileSystem::Open(const std::string& path, bool create) {
  std::lock_guard lock(mutex_);
  if (power_lost_) return absl::DataLossError("no power");
  auto it = files_.find(path);
  if (it == files_.end()) {
    if (!create) return absl::NotFoundError(path);
    it = files_.emplace(path, std::make_shared<Contents>()).first;
  }
  return std::make_unique<Handle>(*this, it->second);
}

absl::StatusOr<std::unique_ptr<DirectoryLock>> MemoryFileSystem::Lock(const std::string&) {
  return std::make_unique<DirectoryLock>();
}

absl::Status MemoryFileSystem::Remove(const std::string& path) {
  if (absl::Status status = Check(Operation::kRemove); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  const auto it = files_.find(path);
  if (it == files_.end()) return absl::NotFoundError(path);
  files_.erase(it);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Rename(const std::string& from, const std::string& to) {
  if (absl::Status status = Check(Operation::kRename); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  const auto it = files_.find(from);
  if (it == files_.end()) return absl::NotFoundError(from);
  files_[to] = it->second;
  files_.erase(from);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::CreateDirectory(const std::string&) { return absl::OkStatus(); }

absl::StatusOr<std::vector<std::string>> MemoryFileSystem::List(const std::string& directory) {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [path, contents] : files_) {
    if (IsIn(directory, path)) names.push_back(path.substr(directory.size() + 1));
  }
  return names;
}

absl::Status MemoryFileSystem::SyncDirectory(const std::string& directory) {
  if (absl::Status status = Check(Operation::kSyncDirectory); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  std::erase_if(durable_files_, [&](const auto& entry) { return IsIn(directory, entry.first); });
  for (const auto& [path, contents] : files_) {
    if (IsIn(directory, path)) durable_files_[path] = contents;
  }
  return absl::OkStatus();
}

}  // namespace longshelf::kvstore::disk
