#include "worker/engine_progress.h"

#include <fcntl.h>
#include <unistd.h>

namespace longshelf::worker {
namespace {

constexpr const char* kName = "progress";

}  // namespace

EngineProgressWriter::EngineProgressWriter(const std::filesystem::path& run_dir)
    : fd_(run_dir.empty() ? -1 : open((run_dir / kName).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) {}

EngineProgressWriter::~EngineProgressWriter() {
  if (fd_ >= 0) close(fd_);
}

void EngineProgressWriter::Write(uint64_t n_turns) {
  // In place, and never closed: the supervisor watches its directory for files that appear.
  [[maybe_unused]] const ssize_t n = fd_ < 0 ? 0 : pwrite(fd_, &n_turns, sizeof n_turns, 0);
}

std::optional<uint64_t> ReadEngineProgress(const std::filesystem::path& run_dir) {
  const int fd = open((run_dir / kName).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  uint64_t n_turns = 0;
  const bool is_whole = pread(fd, &n_turns, sizeof n_turns, 0) == static_cast<ssize_t>(sizeof n_turns);
  close(fd);
  return is_whole ? std::optional(n_turns) : std::nullopt;
}

}  // namespace longshelf::worker
