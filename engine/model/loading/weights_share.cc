#include "engine/model/weights_share.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "text.h"

namespace longshelf::engine {
namespace {

constexpr size_t kMaxBytes = 4096;

absl::Status Failed(std::string_view what) {
  return absl::UnavailableError(Cat("sharing the weights: ", what, ": ", std::strerror(errno)));
}

bool Lock(int fd, int operation) {
  int result = -1;
  do {
    result = flock(fd, operation);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightsShare>> WeightsShare::Lead(const std::filesystem::path& file) {
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return Failed(file.string());
  std::unique_ptr<WeightsShare> share(new WeightsShare(fd, /*leads=*/true));
  if (!Lock(fd, LOCK_EX)) return Failed("lock");
  return share;
}

absl::StatusOr<std::unique_ptr<WeightsShare>> WeightsShare::Join(const std::filesystem::path& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Failed(file.string());
  return std::unique_ptr<WeightsShare>(new WeightsShare(fd, /*leads=*/false));
}

WeightsShare::~WeightsShare() { close(fd_); }

absl::Status WeightsShare::Publish(const std::string& text) {
  if (text.size() > kMaxBytes) return absl::InternalError(Cat("sharing the weights: ", text.size(), " bytes to say"));
  if (write(fd_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) return Failed("write");
  return Lock(fd_, LOCK_UN) ? absl::OkStatus() : Failed("unlock");
}

absl::StatusOr<std::string> WeightsShare::Await() {
  if (!Lock(fd_, LOCK_SH)) return Failed("lock");
  std::string text(kMaxBytes, '\0');
  const ssize_t n = pread(fd_, text.data(), text.size(), 0);
  if (n < 0) return Failed("read");
  if (n == 0) return absl::UnavailableError("the shard that copies the weights ended before they were there");
  text.resize(static_cast<size_t>(n));
  return text;
}

}  // namespace longshelf::engine
