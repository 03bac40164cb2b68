#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "kvstore/client.h"
#include "kvstore/members.h"

namespace longshelf::kvstore {

struct ClusterOptions {
  // As ParseMembers and DnsName take it.
  std::string stores;
  std::string token = {};
  // As in ClientOptions. The certificates of stores under a name are for the name, not for their addresses.
  std::shared_ptr<net::TlsIdentity> tls = {};
  // Of what is parked, as a rule: reads ask that many nodes, and kSpareCandidates more.
  uint32_t n_replicas = 2;
  // Of a name.
  absl::Duration resolve_interval = absl::Seconds(10);
  absl::Duration leave_after = kLeaveAfter;
};

// A client of many nodes, which are told nothing of each other by it. Objects lie on the first nodes of their extent's
// rendezvous order, as many as there are to be replicas; nodes that are down are passed over for the next. Reads go to
// the first node, to the next when that one has not got the object, has got it damaged, is down, or takes longer than
// it usually does. Immutable objects make a stale view harmless: it costs a miss, never a wrong byte.
//
// What client.h says of "the store" holds for all nodes together; where it does not:
//   Lookup    takes the best answer of each extent's nodes. A checkpoint that is named by a probe must lie behind the
//             chain's last block.
//   Put       PutItem::ack, n_replicas and n_acks are kept or the outcome is an error: UNAVAILABLE when too few nodes
//             took it. What some took stays there, as cache or until its time.
//   Touch     `retained` counts nodes; a node without room shows as a key that is not retained, n_refused stays 0.
//   Drop      goes to every member. DropResult::n_nodes_missed of them did not answer and may still hold something.
//   List      and Stats: of the nodes that answer, put together. UNAVAILABLE: none does.
//
// With one member in a list this is the client of that node.
// INVALID_ARGUMENT: `stores` is wrong. The clock must outlive the client. `metrics` may be null.
absl::StatusOr<std::unique_ptr<Client>> MakeClusterClient(const ClusterOptions& options, const Clock& clock,
                                                          Metrics* metrics);

}  // namespace longshelf::kvstore
