#include "engine/comm/host_links.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "common/ids.h"
#include "common/status.h"
#include "engine/comm/quiet_thread.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kMagic = 0x31484C4C;  // "LLH1"
constexpr uint32_t kHello = 1;
constexpr uint32_t kBeat = 2;
constexpr uint32_t kRing = 3;
constexpr uint32_t kWords = 4;
// Connections that have not said hello: how many, and how long.
constexpr size_t kGuestsMax = 64;
constexpr int64_t kHelloTimeoutNs = 2'000'000'000;

struct Hello {
  uint32_t magic = kMagic;
  uint32_t kind = kHello;
  uint64_t index = 0;
  char key[HostLinks::kKeyBytes] = {};
};
struct Message {
  uint32_t magic = kMagic;
  uint32_t kind = kBeat;
};

// Follows a Message that is of words.
struct Words {
  uint32_t n_bytes = 0;
  char text[HostLinks::kWordsBytes] = {};
};

template <typename T>
std::string_view BytesOf(const T& message) {
  return {reinterpret_cast<const char*>(&message), sizeof(message)};
}

int64_t SteadyNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct FreeAddress {
  void operator()(addrinfo* info) const { freeaddrinfo(info); }
};
using Address = std::unique_ptr<addrinfo, FreeAddress>;

absl::StatusOr<Address> ParseAddress(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(
        absl::StrCat("link between hosts: ", host, ":", port, " is no address: ", gai_strerror(error)));
  }
  return Address(found);
}

absl::Status SystemError(const std::string& what) {
  return absl::UnavailableError(absl::StrCat("link between hosts: ", what, ": ", strerror(errno)));
}

void MakeQuick(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// Messages are tiny: a socket that takes less than all of one has a peer that stopped reading long ago.
bool Send(int fd, std::string_view message) {
  return send(fd, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT) == std::ssize(message);
}

// A side that ends with something unread resets its connection; it is gone in the same way.
std::string HowItWent(int error) {
  if (error == 0 || error == ECONNRESET || error == EPIPE) return "it closed its link";
  if (error == EAGAIN) return "it has stopped reading";
  return strerror(error);
}

absl::StatusOr<int> ListenOn(const std::string& listen_on) {
  const size_t colon = listen_on.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("link between hosts: \"", listen_on, "\" is not ADDRESS:PORT"));
  }
  ASSIGN_OR_RETURN(const Address address, ParseAddress(listen_on.substr(0, colon), listen_on.substr(colon + 1)));
  const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return SystemError("socket");
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, static_cast<int>(kGuestsMax)) != 0) {
    const absl::Status status = SystemError(absl::StrCat("cannot listen on ", listen_on));
    close(fd);
    return status;
  }
  return fd;
}

uint16_t PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t n = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &n) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

absl::StatusOr<int> ConnectTo(const HostLinks::Invitation& to, absl::Duration timeout) {
  ASSIGN_OR_RETURN(const Address address, ParseAddress(to.host, absl::StrCat(to.port)));
  const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return SystemError("socket");
  const std::string where = absl::StrCat("cannot connect to ", to.host, ":", to.port);
  int error = connect(fd, address->ai_addr, address->ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd writable{fd, POLLOUT, 0};
    socklen_t n = sizeof(error);
    if (poll(&writable, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) <= 0) {
      error = ETIMEDOUT;
    } else {
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
    }
  }
  if (error != 0) {
    errno = error;
    const absl::Status status = SystemError(where);
    close(fd);
    return status;
  }
  MakeQuick(fd);
  return fd;
}

}  // namespace

std::string HostLinks::Invitation::Serialize() const {
  return absl::StrCat(host, " ", port, " ", absl::BytesToHexString(key));
}

absl::StatusOr<HostLinks::Invitation> HostLinks::Invitation::Parse(const std::string& text) {
  const std::vector<std::string> fields = absl::StrSplit(text, ' ');
  Invitation out;
  uint32_t port = 0;
  if (fields.size() != 3 || !absl::SimpleAtoi(fields[1], &port) || port == 0 || port > UINT16_MAX ||
      fields[2].size() != 2 * kKeyBytes) {
    return absl::InternalError("link between hosts: shard 0 sent a malformed invitation");
  }
  out.host = fields[0];
  out.port = static_cast<uint16_t>(port);
  out.key = absl::HexStringToBytes(fields[2]);
  return out;
}

absl::StatusOr<std::unique_ptr<HostLinks>> HostLinks::Lead(const std::string& listen_on, std::vector<std::string> peers,
                                                           Options options) {
  auto links = std::unique_ptr<HostLinks>(new HostLinks(std::move(options)));
  ASSIGN_OR_RETURN(links->listen_fd_, ListenOn(listen_on));
  links->invitation_.host = listen_on.substr(0, listen_on.rfind(':'));
  links->invitation_.port = PortOf(links->listen_fd_);
  links->invitation_.key = absl::HexStringToBytes(RandomId());
  for (std::string& name : peers)
    links->peers_.push_back({.name = std::move(name), .fd = -1, .heard_ns = 0, .partial = {}, .words = {}});
  links->Start();
  return links;
}

absl::StatusOr<std::unique_ptr<HostLinks>> HostLinks::Join(const Invitation& invitation, size_t index,
                                                           absl::Duration timeout, Options options) {
  auto links = std::unique_ptr<HostLinks>(new HostLinks(std::move(options)));
  links->invitation_ = invitation;
  ASSIGN_OR_RETURN(const int fd, ConnectTo(invitation, timeout));
  links->peers_.push_back(
      {.name = "the host of shard 0", .fd = fd, .heard_ns = SteadyNs(), .partial = {}, .words = {}});
  Hello hello;
  hello.index = index;
  std::memcpy(hello.key, invitation.key.data(), kKeyBytes);
  if (!Send(fd, BytesOf(hello))) return SystemError("cannot say hello to shard 0");
  links->Start();
  return links;
}

void HostLinks::Start() {
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  LONGSHELF_CHECK(wake_fd_ >= 0);
  thread_ = StartQuietThread([this] { Loop(); });
}

HostLinks::~HostLinks() {
  stopping_.store(true);
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof(one));
    thread_.join();
  }
  for (const Peer& peer : peers_) {
    if (peer.fd >= 0) close(peer.fd);
  }
  for (const Guest& guest : guests_) close(guest.fd);
  if (listen_fd_ >= 0) close(listen_fd_);
  if (wake_fd_ >= 0) close(wake_fd_);
}

absl::Status HostLinks::AwaitPeers(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto all_here = [this] {
    return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.fd >= 0; });
  };
  if (joined_.wait_for(lock, absl::ToChronoNanoseconds(timeout), all_here)) return absl::OkStatus();
  std::vector<std::string> missing;
  for (const Peer& peer : peers_) {
    if (peer.fd < 0) missing.push_back(peer.name);
  }
  return absl::UnavailableError(absl::StrCat("link between hosts: no connection from ", absl::StrJoin(missing, ", "),
                                             " to ", invitation_.host, ":", invitation_.port, " in ",
                                             absl::FormatDuration(timeout)));
}

void HostLinks::Ring() { SendToAll(BytesOf(Message{.kind = kRing})); }

void HostLinks::Say(const std::string& words) {
  Words said;
  said.n_bytes = static_cast<uint32_t>(std::min(words.size(), kWordsBytes));
  std::memcpy(said.text, words.data(), said.n_bytes);
  SendToAll(std::string(BytesOf(Message{.kind = kWords})).append(BytesOf(said)));
}

void HostLinks::SendToAll(std::string_view message) {
  std::lock_guard lock(mutex_);
  for (Peer& peer : peers_) {
    if (peer.fd >= 0 && !Send(peer.fd, message)) Lose(peer, HowItWent(errno));
  }
}

// The group ends with it. With the mutex held.
void HostLinks::Lose(Peer& peer, const std::string& how) {
  if (peer.fd >= 0) close(peer.fd);
  peer.fd = -1;
  if (!armed_.load() || stopping_.load()) return;
  options_.lost(absl::StrCat(peer.name, " is gone: ", peer.words.empty() ? how : peer.words));
}

void HostLinks::Accept() {
  const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return;
  if (guests_.size() == kGuestsMax) {
    close(fd);
    return;
  }
  guests_.push_back({.fd = fd, .until_ns = SteadyNs() + kHelloTimeoutNs, .said = {}});
}

// False when the guest has left, as a peer or for good. Whoever does not know the key is none of ours.
bool HostLinks::Welcome(Guest& guest) {
  char bytes[sizeof(Hello)];
  const ssize_t n = recv(guest.fd, bytes, sizeof(Hello) - guest.said.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR) && SteadyNs() < guest.until_ns) return true;
  if (n > 0) guest.said.append(bytes, static_cast<size_t>(n));
  if (n > 0 && guest.said.size() < sizeof(Hello)) return true;
  Hello hello;
  hello.magic = 0;
  if (guest.said.size() == sizeof(Hello)) std::memcpy(&hello, guest.said.data(), sizeof(hello));
  if (hello.magic == kMagic && hello.kind == kHello && SameSecret({hello.key, kKeyBytes}, invitation_.key)) {
    std::lock_guard lock(mutex_);
    if (hello.index < peers_.size() && peers_[hello.index].fd < 0) {
      MakeQuick(guest.fd);
      peers_[hello.index].fd = guest.fd;
      peers_[hello.index].heard_ns = SteadyNs();
      joined_.notify_all();
      return false;
    }
  }
  close(guest.fd);
  return false;
}

void HostLinks::Read(Peer& peer) {
  char bytes[4096];
  const ssize_t n = recv(peer.fd, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return Lose(peer, HowItWent(n == 0 ? 0 : errno));
  peer.heard_ns = SteadyNs();
  peer.partial.append(bytes, static_cast<size_t>(n));
  size_t at = 0;
  while (peer.fd >= 0) {
    const size_t taken = TakeMessage(peer, std::string_view(peer.partial).substr(at));
    if (taken == 0) break;
    at += taken;
  }
  peer.partial.erase(0, at);
}

size_t HostLinks::TakeMessage(Peer& peer, std::string_view bytes) {
  Message message;
  if (bytes.size() < sizeof(message)) return 0;
  std::memcpy(&message, bytes.data(), sizeof(message));
  if (message.magic != kMagic) {
    Lose(peer, "its link is damaged");
    return 0;
  }
  if (message.kind == kRing && options_.rung) options_.rung();
  if (message.kind != kWords) return sizeof(message);
  Words words;
  if (bytes.size() < sizeof(message) + sizeof(words)) return 0;
  std::memcpy(&words, bytes.data() + sizeof(message), sizeof(words));
  peer.words.assign(words.text, std::min<size_t>(words.n_bytes, kWordsBytes));
  return sizeof(message) + sizeof(words);
}

void HostLinks::CheckSilence() {
  const int64_t limit = absl::ToInt64Nanoseconds(options_.silence);
  std::lock_guard lock(mutex_);
  for (Peer& peer : peers_) {
    if (peer.fd < 0 || SteadyNs() - peer.heard_ns <= limit) continue;
    // What came while this thread was held up counts.
    pollfd readable{peer.fd, POLLIN, 0};
    if (poll(&readable, 1, 0) > 0) continue;
    Lose(peer, absl::StrCat("it has been silent for ", absl::FormatDuration(options_.silence)));
  }
}

void HostLinks::Loop() {
  const int64_t beat_ns = absl::ToInt64Nanoseconds(options_.beat);
  int64_t next_beat_ns = SteadyNs();
  while (!stopping_.load()) {
    std::vector<pollfd> fds = {{wake_fd_, POLLIN, 0}, {listen_fd_, POLLIN, 0}};
    std::vector<size_t> who;
    {
      std::lock_guard lock(mutex_);
      for (size_t i = 0; i < peers_.size(); ++i) {
        if (peers_[i].fd < 0) continue;
        fds.push_back({peers_[i].fd, POLLIN, 0});
        who.push_back(i);
      }
    }
    for (const Guest& guest : guests_) fds.push_back({guest.fd, POLLIN, 0});
    const int64_t wait_ms = std::max<int64_t>((next_beat_ns - SteadyNs()) / 1'000'000, 0) + 1;
    poll(fds.data(), fds.size(), static_cast<int>(wait_ms));
    if (fds[1].revents != 0) Accept();
    std::erase_if(guests_, [this](Guest& guest) { return !Welcome(guest); });
    for (size_t k = 0; k < who.size(); ++k) {
      if (fds[k + 2].revents == 0) continue;
      std::lock_guard lock(mutex_);
      if (peers_[who[k]].fd == fds[k + 2].fd) Read(peers_[who[k]]);
    }
    if (SteadyNs() >= next_beat_ns) {
      next_beat_ns = SteadyNs() + beat_ns;
      SendToAll(BytesOf(Message{.kind = kBeat}));
      CheckSilence();
    }
  }
}

}  // namespace longshelf::engine
