#include "last_words.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>

#include "absl/strings/str_cat.h"
#include "common/clock.h"

namespace longshelf::worker {
namespace {

// As HostLinks puts it.
bool IsOfAHost(std::string_view words) { return words.ends_with(" is gone: it closed its link"); }
// As GroupWatch puts it, too.
bool IsOfSomebodyElse(std::string_view words) { return words.ends_with(" is gone") || IsOfAHost(words); }

// Files that are written to a directory.
class DirectoryChanges {
 public:
  explicit DirectoryChanges(const std::filesystem::path& dir) : fd_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    if (fd_ >= 0) is_watching_ = inotify_add_watch(fd_, dir.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO) >= 0;
  }
  ~DirectoryChanges() {
    if (fd_ >= 0) close(fd_);
  }
  DirectoryChanges(const DirectoryChanges&) = delete;
  DirectoryChanges& operator=(const DirectoryChanges&) = delete;
  // True when something has come, at the latest at the limit; false when that cannot be known.
  bool Await(int limit_ms) const {
    if (!is_watching_) return false;
    pollfd readable{fd_, POLLIN, 0};
    poll(&readable, 1, limit_ms);
    std::array<char, 4096> events;
    while (read(fd_, events.data(), events.size()) > 0) {
    }
    return true;
  }

 private:
  const int fd_;
  bool is_watching_ = false;
};

}  // namespace

std::string ChooseLastWords(const std::vector<engine::RankError>& errors, std::string_view seen) {
  for (const engine::RankError& error : errors) {
    if (!error.reason.empty() && !IsOfSomebodyElse(error.reason)) {
      return absl::StrCat("shard ", error.rank, ": ", error.reason);
    }
  }
  if (!seen.empty()) return std::string(seen);
  return errors.empty() ? "it said nothing" : errors.front().reason;
}

std::string FindLastWords(const std::filesystem::path& run_dir, int own_rank, std::string_view seen) {
  if (run_dir.empty()) return std::string(seen);
  // What this shard found itself is the cause, unless it found others gone or MPI broken by them.
  std::vector<engine::RankError> errors = engine::ReadRankErrors(run_dir);
  std::erase_if(errors, [own_rank](const engine::RankError& error) { return error.rank == own_rank; });
  return ChooseLastWords(errors, seen);
}

std::string AwaitLastWords(const std::filesystem::path& run_dir, int own_rank, std::string_view seen,
                           absl::Duration patience) {
  const SystemClock clock;
  const absl::Time deadline = clock.Now() + patience;
  const DirectoryChanges changes(run_dir);
  while (true) {
    std::string words = FindLastWords(run_dir, own_rank, seen);
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - clock.Now());
    if (!IsOfAHost(words) || left_ms <= 0 || !changes.Await(static_cast<int>(left_ms))) return words;
  }
}

}  // namespace longshelf::worker
