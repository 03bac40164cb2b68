#include "open_sockets.h"

#include <arpa/inet.h>

#include <fstream>

namespace longshelf::testing {

std::set<std::string> PeersOf(uint16_t port) {
  std::set<std::string> peers;
  for (const char* path : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);  // titles
    std::string number;
    std::string local;
    std::string remote;
    std::string state;
    while (in >> number >> local >> remote >> state && std::getline(in, line)) {
      constexpr const char* kEstablished = "01";
      const size_t colon = local.find(':');
      if (state != kEstablished || std::stoul(local.substr(colon + 1), nullptr, 16) != port) continue;
      // The last four bytes, as they lie in memory: of an IPv4 address, mapped or not.
      const std::string hex = remote.substr(remote.find(':') - 8, 8);
      in_addr address{.s_addr = static_cast<in_addr_t>(std::stoul(hex, nullptr, 16))};
      char text[INET_ADDRSTRLEN] = {};
      inet_ntop(AF_INET, &address, text, sizeof text);
      peers.insert(text);
    }
  }
  return peers;
}

}  // namespace longshelf::testing
