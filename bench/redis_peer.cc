#include "redis_peer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/check.h"

namespace longshelf::kvstore {
namespace {

constexpr size_t kOnTheWay = 8;  // as many as our own client opens at once

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

uint16_t FreePort() {
  const int probe = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof address;
  LONGSHELF_CHECK(bind(probe, reinterpret_cast<sockaddr*>(&address), size) == 0);
  LONGSHELF_CHECK(getsockname(probe, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(probe);
  return ntohs(address.sin_port);
}

}  // namespace

std::unique_ptr<RedisPeer> RedisPeer::Start(size_t memory_bytes) {
  const uint16_t port = FreePort();
  std::vector<std::string> args = {"redis-server",
                                   "--port",
                                   absl::StrCat(port),
                                   "--bind",
                                   "127.0.0.1",
                                   "--save",
                                   "",
                                   "--appendonly",
                                   "no",
                                   "--maxmemory",
                                   absl::StrCat(memory_bytes),
                                   "--loglevel",
                                   "warning"};
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  const int spawned = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return nullptr;
  const sockaddr_in address = Loopback(port);
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (absl::Now() < deadline) {
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      const int on = 1;
      setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return std::make_unique<RedisPeer>(pid, connection);
    }
    close(connection);
    if (waitpid(pid, nullptr, WNOHANG) == pid) return nullptr;
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return nullptr;
}

RedisPeer::~RedisPeer() {
  close(socket_);
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void RedisPeer::Send(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(socket_, bytes.data(), bytes.size(), 0);
    LONGSHELF_CHECK(n > 0);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void RedisPeer::Send(const std::string& text) { Send({reinterpret_cast<const std::byte*>(text.data()), text.size()}); }

void RedisPeer::ReadExactly(std::span<std::byte> target) {
  while (!target.empty()) {
    if (at_ < buffer_.size()) {
      const size_t n = std::min(target.size(), buffer_.size() - at_);
      std::memcpy(target.data(), buffer_.data() + at_, n);
      at_ += n;
      target = target.subspan(n);
      continue;
    }
    // Payloads go straight to where they belong.
    const ssize_t n = recv(socket_, target.data(), target.size(), 0);
    LONGSHELF_CHECK(n > 0);
    target = target.subspan(static_cast<size_t>(n));
  }
}

std::string RedisPeer::ReadLine() {
  std::string line;
  while (!line.ends_with("\r\n")) {
    if (at_ == buffer_.size()) {
      buffer_.resize(256);
      const ssize_t n = recv(socket_, buffer_.data(), buffer_.size(), 0);
      LONGSHELF_CHECK(n > 0);
      buffer_.resize(static_cast<size_t>(n));
      at_ = 0;
    }
    line.push_back(static_cast<char>(buffer_[at_++]));
  }
  return line;
}

void RedisPeer::Flush() {
  Send("FLUSHALL SYNC\r\n");
  LONGSHELF_CHECK(ReadLine() == "+OK\r\n");
}

void RedisPeer::Set(std::span<const std::span<const std::byte>> payloads) {
  size_t n_answered = 0;
  for (size_t i = 0; i < payloads.size(); ++i) {
    const std::string key = absl::StrCat(i);
    Send(absl::StrCat("*3\r\n$3\r\nSET\r\n$", key.size(), "\r\n", key, "\r\n$", payloads[i].size(), "\r\n"));
    Send(payloads[i]);
    Send("\r\n");
    for (; i + 1 - n_answered >= kOnTheWay; ++n_answered) LONGSHELF_CHECK(ReadLine() == "+OK\r\n");
  }
  for (; n_answered < payloads.size(); ++n_answered) LONGSHELF_CHECK(ReadLine() == "+OK\r\n");
}

void RedisPeer::Get(size_t n, std::span<std::byte> target) {
  const auto ask = [this](size_t i) {
    const std::string key = absl::StrCat(i);
    Send(absl::StrCat("*2\r\n$3\r\nGET\r\n$", key.size(), "\r\n", key, "\r\n"));
  };
  for (size_t i = 0; i < std::min(n, kOnTheWay); ++i) ask(i);
  std::vector<std::byte> end(2);
  for (size_t i = 0; i < n; ++i) {
    LONGSHELF_CHECK(ReadLine() == absl::StrCat("$", target.size(), "\r\n"));
    ReadExactly(target);
    ReadExactly(end);
    if (i + kOnTheWay < n) ask(i + kOnTheWay);
  }
}

}  // namespace longshelf::kvstore
