#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::kvstore {

// One store node as everybody names it: placement depends on the names, so all parts of a cluster must be told the
// same ones.
struct Member {
  std::string address;  // host:port
  // Share of the extents, relative to the others.
  double weight = 1.0;
  // What fails together. Replicas are spread over zones; empty: a zone of its own.
  std::string zone = {};

  bool operator==(const Member&) const = default;
};

// "HOST:PORT[;weight=2][;zone=a],...", 1 to kMaxMembers of them, sorted by address.
// INVALID_ARGUMENT: what is wrong, and where.
inline constexpr size_t kMaxMembers = 256;
absl::StatusOr<std::vector<Member>> ParseMembers(std::string_view text);

// "dns:HOST:PORT": every address that HOST resolves to is a member. Empty when `text` is a list.
std::string_view DnsName(std::string_view text);
// HOST of it: what the certificates of such members are for. Empty when `text` is a list.
std::string DnsHost(std::string_view text);

// INVALID_ARGUMENT: neither a list nor a name. OK when empty.
absl::Status CheckStores(std::string_view stores);

// How long who is no longer under a name stays a member: its service may leave out who is not ready, or be wrong.
inline constexpr absl::Duration kLeaveAfter = absl::Minutes(10);

// What HOST:PORT resolves to now, as "ADDRESS:PORT", sorted. IPv6 only of a name without IPv4: a store with both is
// one. Blocks.
absl::StatusOr<std::vector<Member>> ResolveMembers(std::string_view host_port);

}  // namespace longshelf::kvstore
