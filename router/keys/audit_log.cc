#include "router/audit_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/mailbox.h"
#include "json_dump.h"

namespace longshelf::router {
namespace {

constexpr size_t kLinesWaitingMax = 8192;
constexpr std::chrono::milliseconds kLook{1000};  // how often the thread looks up when nothing comes
constexpr absl::Duration kComplainEvery = absl::Minutes(1);

std::string ErrorText(int error) { return std::generic_category().message(error); }

}  // namespace

std::string AuditLine(const AuditRecord& record) {
  nlohmann::ordered_json line = {
      {"time", absl::FormatTime(absl::RFC3339_full, record.ended_at, absl::UTCTimeZone())},
      {"request_id", record.request_id},
      {"tenant", record.tenant},
      {"key", record.key},
      {"route", record.route},
      {record.is_grpc ? "grpc_status" : "status", record.status},
      {"prompt_tokens", record.n_prompt_tokens},
      {"output_tokens", record.n_output_tokens},
      {"duration_ms", absl::ToInt64Milliseconds(record.elapsed)},
      {"client", record.client},
  };
  return DumpJson(line) + "\n";
}

class AuditLog::Impl {
 public:
  Impl(std::string path, std::function<void(uint64_t n)> on_dropped)
      : path_(std::move(path)), on_dropped_(std::move(on_dropped)), lines_(kLinesWaitingMax) {}

  ~Impl() {
    lines_.Close();
    if (thread_.joinable()) thread_.join();
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Start() {
    if (const int error = Open(); error != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("audit-log: cannot open ", path_, " for writing: ", ErrorText(error)));
    }
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  void Write(std::string line) {
    if (!lines_.Post(std::move(line))) Dropped(1);
  }

 private:
  void Run() {
    bool over = false;
    while (!over) {
      over = lines_.closed();  // what is drained behind this is the rest
      for (const std::string& line : lines_.Drain(kLook)) Append(line);
      Complain();
    }
  }

  // 0, or what is wrong. Never waits for the reader of a pipe.
  int Open() {
    const int fd = open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0) return errno;
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
    is_torn_ = false;
    return 0;
  }

  bool IsStillThere() const {
    struct stat named {};
    struct stat opened {};
    return stat(path_.c_str(), &named) == 0 && fstat(fd_, &opened) == 0 && named.st_dev == opened.st_dev &&
           named.st_ino == opened.st_ino;
  }

  void Append(const std::string& line) {
    // Moved away, or removed: the next file. The old one goes on while there can be none.
    if (!IsStillThere()) {
      if (const int error = Open(); error != 0) last_error_ = error;
    }
    // A line that did not fit must not run into the next one.
    if (is_torn_ && !WriteAll("\n")) return Dropped(1);
    if (!WriteAll(line)) Dropped(1);
  }

  bool WriteAll(const std::string& text) {
    size_t n_done = 0;
    while (n_done < text.size()) {
      const ssize_t n = write(fd_, text.data() + n_done, text.size() - n_done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        last_error_ = n < 0 ? errno : ENOSPC;
        is_torn_ = is_torn_ || n_done > 0;
        return false;
      }
      n_done += static_cast<size_t>(n);
    }
    is_torn_ = false;
    return true;
  }

  void Dropped(uint64_t n) {
    n_dropped_ += n;
    on_dropped_(n);
  }

  // Of the thread.
  void Complain() {
    const absl::Time now = absl::Now();
    const uint64_t n = n_dropped_;
    if (n == n_complained_ || now - complained_at_ < kComplainEvery) return;
    spdlog::error("the audit log {} lost {} lines: {}", path_, n - n_complained_,
                  last_error_ == 0 ? "it does not keep up" : ErrorText(last_error_));
    n_complained_ = n;
    complained_at_ = now;
    last_error_ = 0;
  }

  const std::string path_;
  const std::function<void(uint64_t n)> on_dropped_;
  Mailbox<std::string> lines_;
  std::atomic<uint64_t> n_dropped_{0};
  std::thread thread_;
  // Of the thread, once it runs.
  int fd_ = -1;
  bool is_torn_ = false;
  int last_error_ = 0;
  uint64_t n_complained_ = 0;
  absl::Time complained_at_ = absl::InfinitePast();
};

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(std::string path, std::function<void(uint64_t n)> on_dropped) {
  auto impl = std::make_unique<Impl>(std::move(path), std::move(on_dropped));
  if (const absl::Status status = impl->Start(); !status.ok()) return status;
  return std::make_unique<AuditLog>(std::move(impl));
}

AuditLog::AuditLog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AuditLog::~AuditLog() = default;
void AuditLog::Write(const AuditRecord& record) { impl_->Write(AuditLine(record)); }

}  // namespace longshelf::router
