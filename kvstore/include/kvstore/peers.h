#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "kvstore/members.h"
#include "kvstore/store.h"
#include "net/tls_identity.h"

namespace longshelf::kvstore {

struct PeerOptions {
  std::string stores;     // as ParseMembers and DnsName take it, this node included
  std::string advertise;  // this node's address in that list, or under that name
  std::string token = {};
  std::shared_ptr<net::TlsIdentity> tls = {};  // as in ClusterOptions
  uint32_t n_replicas = 2;
  uint64_t repair_bytes_per_s = uint64_t{64} << 20;
  absl::Duration down_after = absl::Seconds(60);
  absl::Duration repair_interval = absl::Minutes(10);
  // Of a name.
  absl::Duration resolve_interval = absl::Seconds(10);
  absl::Duration leave_after = kLeaveAfter;
  std::function<absl::StatusOr<std::vector<Member>>(const std::string& host_port)> resolve = ResolveMembers;
};

// The other nodes of a store's cluster: keeps what is retained here on as many of them as it should be. See
// cluster/repair.h. A thread of its own.
class Peers {
 private:
  struct State;

 public:
  // INVALID_ARGUMENT: the list is wrong, or does not name this node, or a name is without an address of this node. The
  // store, the clock and the metrics must outlive it.
  static absl::StatusOr<std::unique_ptr<Peers>> Start(const PeerOptions& options, Store& store, const Clock& clock,
                                                      Metrics& metrics);
  explicit Peers(std::unique_ptr<State> state);  // through Start
  ~Peers();

  // Brings what is retained here to the nodes that should have it without this one; false when the time was too short.
  // Blocks.
  bool HandOver(absl::Duration timeout);

 private:
  std::unique_ptr<State> state_;
};

}  // namespace longshelf::kvstore
