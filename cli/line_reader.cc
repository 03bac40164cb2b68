#include "line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace longshelf::cli {

LineReader::Result LineReader::Fill() {
  while (true) {
    pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return Result::kEnd;
    if (fds[1].revents != 0 && signals_.Wait(absl::ZeroDuration()) == ShutdownSignals::Event::kSignal) {
      return Result::kSignal;
    }
    if (fds[0].revents == 0) continue;
    char piece[4096];
    const ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      at_end_ = true;
      return Result::kEnd;
    }
    buffer_.append(piece, static_cast<size_t>(n));
    return Result::kLine;
  }
}

LineReader::Result LineReader::Read(std::string* line) {
  while (true) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      *line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return Result::kLine;
    }
    const Result filled = at_end_ ? Result::kEnd : Fill();
    if (filled == Result::kSignal) return filled;
    if (filled == Result::kEnd && !buffer_.empty()) {
      *line = std::exchange(buffer_, {});
      return Result::kLine;
    }
    if (filled == Result::kEnd) return filled;
  }
}

LineReader::Result LineReader::ReadAll(std::string* text) {
  Result filled = Result::kLine;
  while (filled == Result::kLine) filled = at_end_ ? Result::kEnd : Fill();
  if (filled == Result::kSignal) return filled;
  *text = std::exchange(buffer_, {});
  return text->empty() ? Result::kEnd : Result::kLine;
}

}  // namespace longshelf::cli
