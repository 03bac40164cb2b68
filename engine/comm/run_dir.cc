#include "engine/comm/run_dir.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "rank-";
constexpr std::string_view kPidSuffix = ".pid";
constexpr std::string_view kErrorSuffix = ".error";
constexpr size_t kFileBytesMax = 64 << 10;
constexpr int kRankMax = 4096;

std::string RankFile(int rank, std::string_view suffix) {
  return std::string(kPrefix) + std::to_string(rank) + std::string(suffix);
}

std::string ReadShortFile(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text(kFileBytesMax, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

// Whole or not at all: written beside and renamed.
absl::Status WriteFile(const fs::path& path, std::string_view text) {
  const std::string temporary = absl::StrCat(path.string(), ".tmp.", getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return absl::UnavailableError(absl::StrCat("cannot write ", path.string(), ": ", strerror(errno)));
  const ssize_t n = write(fd, text.data(), text.size());
  const int error = n == static_cast<ssize_t>(text.size()) ? 0 : errno;
  close(fd);
  if (error != 0 || rename(temporary.c_str(), path.c_str()) != 0) {
    const int why = error != 0 ? error : errno;
    unlink(temporary.c_str());
    return absl::UnavailableError(absl::StrCat("cannot write ", path.string(), ": ", strerror(why)));
  }
  return absl::OkStatus();
}

// A whole text that is one number.
template <typename T>
bool ParseNumber(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// K of "rank-K<suffix>".
std::optional<int> RankOfName(std::string_view name, std::string_view suffix) {
  int rank = 0;
  if (!name.starts_with(kPrefix) || !name.ends_with(suffix) || name.size() <= kPrefix.size() + suffix.size()) {
    return std::nullopt;
  }
  name = name.substr(kPrefix.size(), name.size() - kPrefix.size() - suffix.size());
  if (!ParseNumber(name, rank) || rank < 0 || rank > kRankMax) return std::nullopt;
  return rank;
}

template <typename Visit>
void VisitRankFiles(const fs::path& run_dir, std::string_view suffix, Visit visit) {
  std::error_code error;
  for (fs::directory_iterator it(run_dir, error), end; !error && it != end; it.increment(error)) {
    const std::optional<int> rank = RankOfName(it->path().filename().string(), suffix);
    if (rank.has_value()) visit(*rank, ReadShortFile(it->path()));
  }
}

}  // namespace

std::optional<ProcessId> FindProcess(pid_t pid) {
  // The command, field 2, may hold spaces and parentheses: fields count from the last ')'.
  const std::string stat = ReadShortFile(fs::path("/proc") / std::to_string(pid) / "stat");
  const size_t close = stat.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  std::istringstream fields(stat.substr(close + 1));
  constexpr int kFieldsBetween = 18;  // fields 4 to 21
  std::string state;
  std::string skipped;
  ProcessId id{pid, 0};
  fields >> state;
  for (int i = 0; i < kFieldsBetween; ++i) fields >> skipped;
  if (!(fields >> id.start_ticks) || state == "Z" || state == "X") return std::nullopt;
  return id;
}

bool IsAlive(const ProcessId& id) { return FindProcess(id.pid) == id; }

absl::Status WriteRankPid(const fs::path& run_dir, int rank, pid_t pid) {
  const std::optional<ProcessId> id = FindProcess(pid);
  if (!id.has_value()) return absl::NotFoundError(absl::StrCat("no process ", pid));
  return WriteFile(run_dir / RankFile(rank, kPidSuffix), absl::StrCat(id->pid, " ", id->start_ticks, "\n"));
}

fs::path RankErrorPath(const fs::path& run_dir, int rank) { return run_dir / RankFile(rank, kErrorSuffix); }

void WriteRankError(const fs::path& run_dir, int rank, std::string_view reason) {
  // The process is ending anyway; a full disk must not hide the reason in the log.
  if (const absl::Status status = WriteFile(RankErrorPath(run_dir, rank), reason); !status.ok()) {
    const std::string line = absl::StrCat(status.message(), "\n");
    [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, line.data(), line.size());
  }
}

absl::Status WriteReady(const fs::path& run_dir) { return WriteFile(run_dir / "ready", "ready\n"); }

bool IsReady(const fs::path& run_dir) {
  std::error_code error;
  return fs::exists(run_dir / "ready", error);
}

std::vector<RankProcess> ReadRankPids(const fs::path& run_dir) {
  std::vector<RankProcess> out;
  VisitRankFiles(run_dir, kPidSuffix, [&out](int rank, const std::string& text) {
    RankProcess process{rank, {}};
    if (std::istringstream(text) >> process.id.pid >> process.id.start_ticks && process.id.pid > 1) {
      out.push_back(process);
    }
  });
  std::sort(out.begin(), out.end(), [](const RankProcess& a, const RankProcess& b) { return a.rank < b.rank; });
  return out;
}

std::vector<RankError> ReadRankErrors(const fs::path& run_dir) {
  std::vector<RankError> out;
  VisitRankFiles(run_dir, kErrorSuffix, [&out](int rank, std::string text) { out.push_back({rank, std::move(text)}); });
  std::sort(out.begin(), out.end(), [](const RankError& a, const RankError& b) { return a.rank < b.rank; });
  return out;
}

fs::path DoorbellPath(const fs::path& run_dir) { return run_dir / "doorbell"; }
fs::path WeightsSharePath(const fs::path& run_dir) { return run_dir / "weights"; }

void TieToParent() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  for (const int signal : {SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) sigaction(signal, &ignore, nullptr);
}

}  // namespace longshelf::engine
