#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::worker {

// Open MPI keeps to networks that it is given as IPv4 only.
inline constexpr char kOnlyIpv4[] =
    "a group over hosts needs IPv4 between them: Open MPI cannot be kept to an IPv6 network";

// How the hosts of a group reach each other.
struct GroupNetwork {
  std::vector<std::string> addresses;  // of the hosts, numeric, in their order
  std::string cidr;                    // "10.0.0.0/24": the interface of this host that leads to the others
};

// `hosts`: at least two, the first being this machine. `cidr`: the network to use; empty: the one that leads to the
// second host. IPv4. INVALID_ARGUMENT, NOT_FOUND: says which host does not resolve, is not this machine, or is not in
// the network, and what there is instead.
absl::StatusOr<GroupNetwork> FindGroupNetwork(const std::vector<std::string>& hosts, const std::string& cidr);

// A TCP port of [begin, end) that nobody listens on; two processes begin to look at different ones, as what is free now
// may be taken when it is used. UNAVAILABLE: all are taken.
absl::StatusOr<int> FindFreePort(int begin, int end);

}  // namespace longshelf::worker
