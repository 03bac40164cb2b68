#include "kvstore/cluster_client.h"

#include <memory>
#include <utility>

#include "cluster_client_impl.h"
#include "common/status.h"

namespace longshelf::kvstore {
absl::StatusOr<std::unique_ptr<Client>> MakeClusterClient(const ClusterOptions& options, const Clock& clock,
                                                          Metrics* metrics) {
  RETURN_IF_ERROR(CheckStores(options.stores));
  const std::string name(DnsName(options.stores));
  std::vector<Member> members;
  if (name.empty()) {
    ASSIGN_OR_RETURN(members, ParseMembers(options.stores));
    if (members.size() == 1) {
      return MakeClient({.address = members[0].address, .token = options.token, .tls = options.tls});
    }
  }
  // Whatever is wrong with the token is said now.
  RETURN_IF_ERROR(MakeClient({.address = "localhost:1", .token = options.token}).status());
  const auto make = [token = options.token, tls = options.tls, host = DnsHost(options.stores)](const Member& member) {
    return MakeClient({.address = member.address, .token = token, .tls = tls, .tls_name = host});
  };
  auto client = std::make_unique<ClusterClient>(clock, options.n_replicas, metrics, make);
  client->RunInThread();
  if (name.empty()) {
    client->SetMembers(std::move(members));
  } else {
    client->Watch(name, options.resolve_interval, options.leave_after);
  }
  return client;
}

}  // namespace longshelf::kvstore
