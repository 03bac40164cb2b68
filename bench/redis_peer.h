#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace longshelf::kvstore {

// A redis-server of its own on a loopback port, without persistence, and one connection to it that keeps a few commands
// on their way.
class RedisPeer {
 public:
  // Null when there is no redis-server here (Debian: apt-get install redis-server).
  static std::unique_ptr<RedisPeer> Start(size_t memory_bytes);
  RedisPeer(int pid, int socket) : pid_(pid), socket_(socket) {}
  ~RedisPeer();

  void Flush();
  // SET 0, SET 1, ... and GET into `target`, which is as large as one object.
  void Set(std::span<const std::span<const std::byte>> payloads);
  void Get(size_t n, std::span<std::byte> target);

 private:
  void Send(std::span<const std::byte> bytes);
  void Send(const std::string& text);
  std::string ReadLine();
  void ReadExactly(std::span<std::byte> target);

  const int pid_;
  const int socket_;
  std::vector<std::byte> buffer_;  // received and not yet taken
  size_t at_ = 0;
};

}  // namespace longshelf::kvstore
