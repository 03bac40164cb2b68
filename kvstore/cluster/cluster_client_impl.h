#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cluster_core.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "dns_watcher.h"
#include "kvstore/client.h"
#include "membership.h"

namespace longshelf::kvstore {

// See kvstore/cluster_client.h. All calls become operations on one loop, which a thread of the client turns, or a test
// with a clock and nodes of its own.
class ClusterClient final : public Client {
 public:
  using MakeNode = Membership::MakeNode;

  // Knows nobody until SetMembers.
  ClusterClient(const Clock& clock, uint32_t n_replicas, Metrics* metrics, MakeNode make_node);
  ~ClusterClient() override;

  // From any thread. Calls that run keep the members they began with.
  void SetMembers(std::vector<Member> members, absl::Duration leave_after = absl::ZeroDuration());
  // Takes the members from a name, from now on.
  void Watch(std::string host_port, absl::Duration interval, absl::Duration leave_after);
  // Either a thread of its own turns the loop from now on, or the caller does.
  void RunInThread();
  void RunReady();

  void Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) override;
  std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) override;
  std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) override;
  void Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) override;
  void Drop(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override;
  void DropCache(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override;
  void DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) override;
  void List(ListQuery query, absl::Duration timeout, Done<ListResult> done) override;
  void Stats(absl::Duration timeout, Done<StoreStats> done) override;

 private:
  // Posts it to the loop; `refuse` when the client is closed or knows nobody.
  void Run(std::function<void(ClusterCore&)> start, std::function<void(const absl::Status&)> refuse);
  void Close();

  const std::unique_ptr<ClusterCore> core_;
  Membership membership_;                         // the loop's
  std::vector<std::unique_ptr<Client>> clients_;  // of the closed nodes, for whoever may wait
  std::thread thread_;
  std::unique_ptr<DnsWatcher> watcher_;
};

}  // namespace longshelf::kvstore
