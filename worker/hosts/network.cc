#include "network.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "process_tree.h"

namespace longshelf::worker {
namespace {

// In host byte order.
struct Interface {
  std::string name;
  uint32_t address = 0;
  uint32_t mask = 0;
};
struct Network {
  uint32_t address = 0;
  uint32_t mask = 0;
  bool Holds(uint32_t other) const { return (other & mask) == (address & mask); }
};

// The smallest network around `network` that holds `address` as well: hosts may each have a network of their own, as in
// Kubernetes.
Network WidenedTo(Network network, uint32_t address) {
  while (!network.Holds(address)) network.mask <<= 1;
  return network;
}

std::string Dotted(uint32_t address) {
  const in_addr in{htonl(address)};
  char text[INET_ADDRSTRLEN] = {};
  inet_ntop(AF_INET, &in, text, sizeof(text));
  return text;
}

std::string ToText(const Network& network) {
  return absl::StrCat(Dotted(network.address & network.mask), "/", std::popcount(network.mask));
}

std::vector<Interface> OwnInterfaces() {
  ifaddrs* raw = nullptr;
  if (getifaddrs(&raw) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> all(raw, freeifaddrs);
  std::vector<Interface> out;
  for (const ifaddrs* one = raw; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_netmask == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    out.push_back({one->ifa_name, ntohl(reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr.s_addr),
                   ntohl(reinterpret_cast<const sockaddr_in*>(one->ifa_netmask)->sin_addr.s_addr)});
  }
  return out;
}

std::string ListOf(const std::vector<Interface>& interfaces) {
  return absl::StrJoin(interfaces, ", ", [](std::string* out, const Interface& one) {
    absl::StrAppend(out, one.name, " ", Dotted(one.address), "/", std::popcount(one.mask));
  });
}

absl::StatusOr<Network> ParseCidr(const std::string& text) {
  if (text.find(':') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("--mpi-network is \"", text, "\", and ", kOnlyIpv4));
  }
  const size_t slash = text.find('/');
  in_addr address{};
  int bits = 0;
  if (slash == std::string::npos || inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) != 1 ||
      !absl::SimpleAtoi(text.substr(slash + 1), &bits) || bits < 1 || bits > 32) {
    return absl::InvalidArgumentError(absl::StrCat("--mpi-network is \"", text, "\"; give one like 10.0.0.0/24"));
  }
  return Network{ntohl(address.s_addr), ~uint32_t{0} << (32 - bits)};
}

absl::StatusOr<std::vector<uint32_t>> AddressesOf(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* raw = nullptr;
  if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &raw); error != 0) {
    hints.ai_family = AF_INET6;
    if (getaddrinfo(host.c_str(), nullptr, &hints, &raw) == 0) {
      freeaddrinfo(raw);
      return absl::InvalidArgumentError(absl::StrCat("--hosts: ", host, " has IPv6 addresses only, and ", kOnlyIpv4));
    }
    return absl::NotFoundError(absl::StrCat("--hosts: ", host, " has no IPv4 address: ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> all(raw, freeaddrinfo);
  std::vector<uint32_t> out;
  for (const addrinfo* one = raw; one != nullptr; one = one->ai_next) {
    out.push_back(ntohl(reinterpret_cast<const sockaddr_in*>(one->ai_addr)->sin_addr.s_addr));
  }
  return out;
}

// The own address that packets to `remote` would carry; nothing is sent.
std::optional<uint32_t> SourceFor(uint32_t remote) {
  const OwnedFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(9);
  to.sin_addr.s_addr = htonl(remote);
  socklen_t n = sizeof(to);
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), n) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&to), &n) != 0) {
    return std::nullopt;
  }
  return ntohl(to.sin_addr.s_addr);
}

absl::StatusOr<Network> NetworkTowards(const std::string& host, const std::vector<Interface>& interfaces) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> remote, AddressesOf(host));
  const std::optional<uint32_t> source = SourceFor(remote[0]);
  for (const Interface& one : interfaces) {
    if (source == one.address) return Network{one.address, one.mask};
  }
  return absl::NotFoundError(absl::StrCat("--hosts: nothing leads to ", host, " (", Dotted(remote[0]),
                                          ") from this machine, which has ", ListOf(interfaces)));
}

// The address in `network`, or the first one when the host is only reached through a router.
uint32_t PreferIn(const Network& network, const std::vector<uint32_t>& addresses) {
  for (const uint32_t address : addresses) {
    if (network.Holds(address)) return address;
  }
  return addresses[0];
}

}  // namespace

absl::StatusOr<GroupNetwork> FindGroupNetwork(const std::vector<std::string>& hosts, const std::string& cidr) {
  const std::vector<Interface> interfaces = OwnInterfaces();
  Network network;
  if (cidr.empty()) {
    ASSIGN_OR_RETURN(network, NetworkTowards(hosts[1], interfaces));
  } else {
    ASSIGN_OR_RETURN(network, ParseCidr(cidr));
  }
  ASSIGN_OR_RETURN(const std::vector<uint32_t> first, AddressesOf(hosts[0]));
  const auto is_own = [&](uint32_t address) {
    return std::any_of(interfaces.begin(), interfaces.end(),
                       [address](const Interface& one) { return one.address == address; });
  };
  if (std::none_of(first.begin(), first.end(), is_own)) {
    return absl::InvalidArgumentError(absl::StrCat("--hosts begins with ", hosts[0], " (", Dotted(first[0]),
                                                   "), but this machine has ", ListOf(interfaces),
                                                   "; start longshelf-worker on the first host"));
  }
  GroupNetwork out;
  for (const Interface& one : interfaces) {
    if (network.Holds(one.address)) out.addresses = {Dotted(one.address)};
  }
  if (out.addresses.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--mpi-network is ", ToText(network),
                                                   ", but no interface of this machine is in it; it has ",
                                                   ListOf(interfaces)));
  }
  for (size_t i = 1; i < hosts.size(); ++i) {
    ASSIGN_OR_RETURN(const std::vector<uint32_t> addresses, AddressesOf(hosts[i]));
    const uint32_t address = PreferIn(network, addresses);
    out.addresses.push_back(Dotted(address));
    if (cidr.empty()) network = WidenedTo(network, address);
  }
  out.cidr = ToText(network);
  return out;
}

absl::StatusOr<int> FindFreePort(int begin, int end) {
  const int n = end - begin;
  for (int i = 0; i < n; ++i) {
    const int port = begin + (getpid() + i) % n;
    const OwnedFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    if (fd.valid() && bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return port;
  }
  return absl::UnavailableError(absl::StrCat("--mpi-ports: all of ", begin, "-", end - 1, " are taken"));
}

}  // namespace longshelf::worker
