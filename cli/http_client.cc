#include "cli/http_client.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status.h"

namespace longshelf::cli {
namespace {

namespace http = boost::beast::http;

constexpr size_t kCollectedBytesMax = 4 << 20;
constexpr uint32_t kHeaderBytesMax = 64 << 10;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Waits until `fd` is ready for `events`, or for one of the two ways to stop.
absl::Status Await(int fd, short events, absl::Duration timeout, int interrupt_fd) {
  pollfd fds[2] = {{fd, events, 0}, {interrupt_fd, POLLIN, 0}};
  int n = 0;
  do {
    n = poll(fds, 2, static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(timeout), 1 << 30)));
  } while (n < 0 && errno == EINTR);
  if (n < 0) return absl::InternalError(absl::StrCat("poll: ", std::strerror(errno)));
  if (fds[1].revents != 0) return absl::CancelledError("interrupted");
  if (n == 0) return absl::DeadlineExceededError(absl::StrCat("no answer for ", absl::FormatDuration(timeout)));
  return absl::OkStatus();
}

absl::StatusOr<Socket> Connect(const HttpUrl& url, const HttpCall& call) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int resolved = getaddrinfo(url.host.c_str(), absl::StrCat(url.port).c_str(), &hints, &found);
  if (resolved != 0)
    return absl::UnavailableError(absl::StrCat("cannot resolve ", url.host, ": ", gai_strerror(resolved)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  std::string reason = "no address";
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    Socket candidate(
        socket(address->ai_family, address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address->ai_protocol));
    if (candidate.fd() < 0) continue;
    int error = connect(candidate.fd(), address->ai_addr, address->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      const absl::Status waited = Await(candidate.fd(), POLLOUT, call.connect_timeout, call.interrupt_fd);
      if (absl::IsCancelled(waited)) return waited;
      socklen_t size = sizeof error;
      if (!waited.ok()) {
        error = ETIMEDOUT;
      } else if (getsockopt(candidate.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
        error = errno;
      }
    }
    if (error == 0) return candidate;
    reason = std::strerror(error);
  }
  return absl::UnavailableError(absl::StrCat("cannot connect to ", url.host, ":", url.port, ": ", reason));
}

absl::Status SendAll(int fd, absl::string_view bytes, const HttpCall& call) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(Await(fd, POLLOUT, call.idle_timeout, call.interrupt_fd));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("connection lost: ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

std::string RequestText(const HttpUrl& url, const HttpCall& call) {
  const bool v6 = absl::StrContains(url.host, ":");
  std::string text = absl::StrCat(call.method, " ", url.path, call.target, " HTTP/1.1\r\nHost: ", v6 ? "[" : "",
                                  url.host, v6 ? "]" : "", ":", url.port, "\r\nConnection: close\r\n");
  for (const auto& [name, value] : call.headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
  if (!call.body.empty() || call.method == "POST") absl::StrAppend(&text, "Content-Length: ", call.body.size(), "\r\n");
  return absl::StrCat(text, "\r\n", call.body);
}

// Feeds the parser with what arrived and hands on what it found. `pending` keeps what the parser wants to see again.
absl::Status Digest(const HttpCall& call, http::response_parser<http::string_body>& parser, std::string& pending,
                    HttpAnswer& answer) {
  boost::system::error_code error;
  while (!pending.empty() && !parser.is_done()) {
    const size_t used = parser.put(boost::asio::buffer(pending), error);
    pending.erase(0, used);
    std::string& body = parser.get().body();
    if (parser.is_header_done() && !body.empty()) {
      answer.status = parser.get().result_int();
      if (call.on_body && answer.status == 200) {
        call.on_body(body);
      } else if (answer.body.size() + body.size() > kCollectedBytesMax) {
        return absl::ResourceExhaustedError("the answer is larger than 4 MiB");
      } else {
        answer.body += body;
      }
      body.clear();
    }
    if (error == http::error::need_more) return absl::OkStatus();
    if (error) return absl::UnavailableError(absl::StrCat("not an HTTP answer: ", error.message()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view text) {
  const std::string given(text);
  const auto refuse = [&given](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("expected http://HOST:PORT, got ", given, why));
  };
  if (absl::StartsWith(text, "https://")) return refuse(" (this tool speaks plain HTTP)");
  if (!absl::ConsumePrefix(&text, "http://")) return refuse("");
  const size_t slash = std::min(text.find('/'), text.size());
  HttpUrl url;
  url.path = std::string(absl::StripSuffix(text.substr(slash), "/"));
  std::string authority(text.substr(0, slash));
  const size_t colon = authority.rfind(':');
  if (colon != std::string::npos && authority.find(']', colon) == std::string::npos) {
    uint32_t port = 0;
    if (!absl::SimpleAtoi(authority.substr(colon + 1), &port) || port == 0 || port > 65535) return refuse("");
    url.port = static_cast<uint16_t>(port);
    authority.resize(colon);
  }
  if (authority.size() > 2 && authority.front() == '[') authority = authority.substr(1, authority.size() - 2);
  const bool plain = std::all_of(given.begin(), given.end(), [](unsigned char c) { return c > ' ' && c < 0x7F; });
  if (authority.empty() || !plain) return refuse("");
  url.host = std::move(authority);
  return url;
}

absl::StatusOr<HttpAnswer> CallHttp(const HttpUrl& url, const HttpCall& call) {
  ASSIGN_OR_RETURN(const Socket socket, Connect(url, call));
  RETURN_IF_ERROR(SendAll(socket.fd(), RequestText(url, call), call));
  HttpAnswer answer;
  http::response_parser<http::string_body> parser;
  parser.header_limit(kHeaderBytesMax);
  parser.body_limit(boost::none);  // a stream has no length; what is collected is bounded in Digest
  parser.eager(true);
  std::string pending;
  while (!parser.is_done()) {
    RETURN_IF_ERROR(Await(socket.fd(), POLLIN, call.idle_timeout, call.interrupt_fd));
    char piece[16384];
    const ssize_t n = recv(socket.fd(), piece, sizeof piece, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return absl::UnavailableError(absl::StrCat("connection lost: ", std::strerror(errno)));
    if (n == 0) {
      boost::system::error_code error;
      if (parser.got_some()) parser.put_eof(error);
      if (error || !parser.is_done()) return absl::UnavailableError("the connection ended before the answer did");
      break;
    }
    pending.append(piece, static_cast<size_t>(n));
    RETURN_IF_ERROR(Digest(call, parser, pending, answer));
    if (pending.size() > kCollectedBytesMax) return absl::ResourceExhaustedError("a header or chunk without end");
  }
  answer.status = parser.get().result_int();
  return answer;
}

}  // namespace longshelf::cli
