#include "probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

namespace longshelf::testing {
namespace {

using Steady = std::chrono::steady_clock;

uint16_t PortOf(const SupervisedWorker& worker) {
  const std::string before = "supervisor probes at http://127.0.0.1:";
  const std::string log = worker.log();
  const size_t at = log.find(before);
  return at == std::string::npos ? 0 : static_cast<uint16_t>(std::atoi(log.c_str() + at + before.size()));
}

}  // namespace

ProbeAnswer Probe(const SupervisedWorker& worker, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(PortOf(worker));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[4096];
    for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) text.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  const size_t body = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.1 ") || body == std::string::npos) return {};
  return {std::atoi(text.c_str() + 9), text.substr(body + 4)};
}

ProbeAnswer AwaitProbe(const SupervisedWorker& worker, const std::string& path, const std::string& words) {
  const auto deadline = Steady::now() + std::chrono::seconds(10);
  ProbeAnswer answer = Probe(worker, path);
  while (answer.body.find(words) == std::string::npos && Steady::now() < deadline) {
    poll(nullptr, 0, 5);
    answer = Probe(worker, path);
  }
  return answer;
}

}  // namespace longshelf::testing
