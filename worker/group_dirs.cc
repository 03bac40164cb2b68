#include "group_dirs.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/ids.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = "lock";
constexpr const char* kNamePrefix = "worker-";
constexpr const char* kGenerationPrefix = "generation-";
constexpr size_t kRandomDigits = 12;
constexpr absl::Duration kKillTimeout = absl::Seconds(5);

absl::Status MakePrivateDir(const fs::path& path) {
  if (mkdir(path.c_str(), 0700) == 0) return absl::OkStatus();
  struct stat info {};
  if (errno != EEXIST || lstat(path.c_str(), &info) != 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot make ", path.string(), ": ", strerror(errno)));
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(path.string(), " is not a private directory of this user; remove it or set --work-dir"));
  }
  return absl::OkStatus();
}

fs::path ShmDir(const fs::path& shm_root, const std::string& name) {
  return shm_root / absl::StrCat("longshelf-", geteuid(), "-", name);
}

fs::path GenerationName(uint64_t generation) { return absl::StrCat(kGenerationPrefix, generation); }

void RemoveTree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) spdlog::warn("cannot remove {}: {}", path.string(), error.message());
}

// Every shard of a dead supervisor should be dead too; a shard that was stopped when it happened may not be yet.
void KillLeftovers(const fs::path& dir) {
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().starts_with(kGenerationPrefix)) continue;
    for (const engine::RankProcess& rank : engine::ReadRankPids(it->path() / "run")) {
      if (!engine::IsAlive(rank.id)) continue;
      spdlog::warn("killing shard {} (process {}) that outlived its supervisor", rank.rank, rank.id.pid);
      KillProcess(rank.id.pid, kKillTimeout);
    }
  }
}

OwnedFd LockFile(const fs::path& path, int operation) {
  OwnedFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid() || flock(fd.get(), operation) != 0) return OwnedFd();
  return fd;
}

// With the root locked: nobody is between making a directory and locking it.
void CleanDeadSupervisors(const fs::path& root, const fs::path& shm_root) {
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    const fs::path dir = it->path();
    const std::string name = dir.filename().string();
    if (!name.starts_with(kNamePrefix)) continue;
    if (!LockFile(dir / kLockName, LOCK_EX | LOCK_NB).valid()) continue;  // its supervisor lives
    spdlog::info("cleaning up after a supervisor that was killed: {}", name);
    KillLeftovers(dir);
    RemoveTree(ShmDir(shm_root, name));
    RemoveTree(dir);
  }
}

bool HasRoom(const fs::path& path, uint64_t bytes) {
  struct statvfs info {};
  return statvfs(path.c_str(), &info) == 0 && access(path.c_str(), W_OK) == 0 &&
         uint64_t{info.f_bavail} * info.f_frsize >= bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GroupDirs>> GroupDirs::Open(const fs::path& root, const fs::path& shm_root) {
  RETURN_IF_ERROR(MakePrivateDir(root));
  const OwnedFd root_lock = LockFile(root / kLockName, LOCK_EX);
  if (!root_lock.valid()) return absl::PermissionDeniedError(absl::StrCat("cannot lock ", root.string()));
  CleanDeadSupervisors(root, shm_root);
  const std::string name = absl::StrCat(kNamePrefix, getpid(), "-", RandomId().substr(0, kRandomDigits));
  RETURN_IF_ERROR(MakePrivateDir(root / name));
  OwnedFd lock = LockFile(root / name / kLockName, LOCK_EX | LOCK_NB);
  if (!lock.valid()) return absl::PermissionDeniedError(absl::StrCat("cannot lock ", (root / name).string()));
  return std::unique_ptr<GroupDirs>(new GroupDirs(root / name, ShmDir(shm_root, name), std::move(lock)));
}

GroupDirs::~GroupDirs() {
  RemoveTree(shm_dir_);
  RemoveTree(dir_);
}

absl::StatusOr<GenerationDirs> GroupDirs::Make(uint64_t generation, uint64_t shm_bytes) {
  const fs::path base = dir_ / GenerationName(generation);
  GenerationDirs dirs{base / "run", base / "shm", base / "tmp"};
  RETURN_IF_ERROR(MakePrivateDir(base));
  RETURN_IF_ERROR(MakePrivateDir(dirs.run));
  RETURN_IF_ERROR(MakePrivateDir(dirs.tmp));
  if (HasRoom(shm_dir_.parent_path(), shm_bytes)) {
    RETURN_IF_ERROR(MakePrivateDir(shm_dir_));
    dirs.shm = shm_dir_ / GenerationName(generation);
  } else {
    spdlog::warn("{} has less than {} bytes free or is not writable; MPI's shared segments go to disk",
                 shm_dir_.parent_path().string(), shm_bytes);
  }
  RETURN_IF_ERROR(MakePrivateDir(dirs.shm));
  return dirs;
}

void GroupDirs::Remove(uint64_t generation) {
  RemoveTree(shm_dir_);
  RemoveTree(dir_ / GenerationName(generation));
}

}  // namespace longshelf::worker
