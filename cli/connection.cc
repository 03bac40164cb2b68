#include "connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::cli {
namespace {

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

// 0, or why there is no connection. CANCELLED: interrupted.
absl::StatusOr<int> ConnectTo(int fd, const addrinfo& address, const HttpCall& call) {
  if (connect(fd, address.ai_addr, address.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  const absl::Status waited = Await(fd, POLLOUT, call.connect_timeout, call.interrupt_fd);
  if (absl::IsCancelled(waited)) return waited;
  if (!waited.ok()) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

bool IsAddress(const std::string& host) {
  in6_addr address;
  return inet_pton(AF_INET, host.c_str(), &address) == 1 || inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

std::string WhyTlsFailed(SSL* ssl) {
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const long verified = SSL_get_verify_result(ssl);
  if (verified != X509_V_OK) {
    return absl::StrCat("its certificate is not believed: ", X509_verify_cert_error_string(verified));
  }
  const int reason = ERR_GET_REASON(error);
  if (reason == SSL_R_WRONG_VERSION_NUMBER) return "it does not speak TLS";
  if (reason == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED) return "it wants a certificate of the caller";
  const char* text = ERR_reason_error_string(error);
  return text != nullptr ? text : "connection lost";
}

}  // namespace

void Connection::SslFree::operator()(ssl_st* ssl) const { SSL_free(ssl); }

Connection::~Connection() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<Connection> Connection::Open(const HttpUrl& url, const HttpCall& call) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int resolved = getaddrinfo(url.host.c_str(), absl::StrCat(url.port).c_str(), &hints, &found);
  if (resolved != 0) {
    return absl::UnavailableError(absl::StrCat("cannot resolve ", url.host, ": ", gai_strerror(resolved)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  std::string reason = "no address";
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    Connection candidate(
        socket(address->ai_family, address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address->ai_protocol));
    if (candidate.fd_ < 0) continue;
    ASSIGN_OR_RETURN(const int error, ConnectTo(candidate.fd_, *address, call));
    if (error != 0) {
      reason = std::strerror(error);
      continue;
    }
    if (url.tls) RETURN_IF_ERROR(candidate.AgreeOnTls(url, call));
    return candidate;
  }
  return absl::UnavailableError(absl::StrCat("cannot connect to ", url.host, ":", url.port, ": ", reason));
}

absl::Status Connection::AgreeOnTls(const HttpUrl& url, const HttpCall& call) {
  if (call.tls == nullptr) return absl::InvalidArgumentError("https needs to be told whom to believe");
  ssl_.reset(SSL_new(call.tls.get()));
  if (ssl_ == nullptr || SSL_set_fd(ssl_.get(), fd_) != 1) return absl::InternalError("TLS: out of memory");
  X509_VERIFY_PARAM* expected = SSL_get0_param(ssl_.get());
  if (IsAddress(url.host)) {
    X509_VERIFY_PARAM_set1_ip_asc(expected, url.host.c_str());
  } else {
    X509_VERIFY_PARAM_set1_host(expected, url.host.c_str(), url.host.size());
    SSL_ctrl(ssl_.get(), SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, const_cast<char*>(url.host.c_str()));
  }
  ERR_clear_error();
  for (int result = 0; (result = SSL_connect(ssl_.get())) != 1;) {
    const absl::Status status = AwaitTls(result, call.connect_timeout, call, "cannot agree on TLS");
    if (!status.ok()) return Annotate(status, absl::StrCat(url.host, ":", url.port));
  }
  return absl::OkStatus();
}

absl::Status Connection::AwaitTls(int result, absl::Duration timeout, const HttpCall& call, absl::string_view what) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Await(fd_, POLLIN, timeout, call.interrupt_fd);
    case SSL_ERROR_WANT_WRITE:
      return Await(fd_, POLLOUT, timeout, call.interrupt_fd);
    default:
      return absl::UnavailableError(absl::StrCat(what, ": ", WhyTlsFailed(ssl_.get())));
  }
}

absl::Status Connection::SendAll(absl::string_view bytes, const HttpCall& call) {
  while (!bytes.empty()) {
    if (ssl_ != nullptr) {
      size_t n = 0;
      ERR_clear_error();
      const int result = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &n);
      if (result == 1) {
        bytes.remove_prefix(n);
      } else {
        RETURN_IF_ERROR(AwaitTls(result, call.idle_timeout, call, "connection lost"));
      }
      continue;
    }
    const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(Await(fd_, POLLOUT, call.idle_timeout, call.interrupt_fd));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("connection lost: ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Connection::Receive(char* piece, size_t n_max, const HttpCall& call) {
  while (true) {
    if (ssl_ != nullptr) {
      size_t n = 0;
      ERR_clear_error();
      const int result = SSL_read_ex(ssl_.get(), piece, n_max, &n);
      if (result == 1) return n;
      if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_ZERO_RETURN) return 0;
      RETURN_IF_ERROR(AwaitTls(result, call.idle_timeout, call, "connection lost"));
      continue;
    }
    RETURN_IF_ERROR(Await(fd_, POLLIN, call.idle_timeout, call.interrupt_fd));
    const ssize_t n = recv(fd_, piece, n_max, 0);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EAGAIN && errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("connection lost: ", std::strerror(errno)));
    }
  }
}

}  // namespace longshelf::cli
