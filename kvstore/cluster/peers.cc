#include "kvstore/peers.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cluster_core.h"
#include "common/status.h"
#include "kvstore/members.h"
#include "repair.h"

namespace longshelf::kvstore {

struct Peers::State {
  State(const Clock& clock, uint32_t n_replicas, Metrics& metrics)
      : core(clock, n_replicas, /*metrics=*/nullptr), counters(metrics) {}

  ClusterCore core;
  RepairMetrics counters;
  std::shared_ptr<Repair> repair;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<Peers>> Peers::Start(const PeerOptions& options, Store& store, const Clock& clock,
                                                    Metrics& metrics) {
  ASSIGN_OR_RETURN(const std::vector<Member> members, ParseMembers(options.stores));
  const bool knows_itself = std::any_of(members.begin(), members.end(),
                                        [&](const Member& member) { return member.address == options.advertise; });
  if (!knows_itself) {
    return absl::InvalidArgumentError(
        absl::StrCat("--peers: does not name this node, ", options.advertise, "; see --advertise"));
  }
  std::vector<std::shared_ptr<ClusterNode>> nodes;
  for (const Member& member : members) {
    ASSIGN_OR_RETURN(std::unique_ptr<Client> client, MakeClient({.address = member.address, .token = options.token}));
    nodes.push_back(std::make_shared<ClusterNode>(member, std::move(client)));
  }
  auto state = std::make_unique<State>(clock, options.n_replicas, metrics);
  state->core.view = std::make_shared<const ClusterView>(std::move(nodes));
  RepairOptions repair;
  repair.self = options.advertise;
  repair.n_replicas = options.n_replicas;
  repair.n_manifests = options.n_replicas + 1;
  repair.bytes_per_s = options.repair_bytes_per_s;
  repair.down_after = options.down_after;
  repair.interval = options.repair_interval;
  state->repair = std::make_shared<Repair>(state->core, repair, store, &state->counters);
  state->core.loop->Post([repair = state->repair] { repair->Start(); });
  state->thread = std::thread([loop = state->core.loop] { loop->RunUntilClosed(); });
  return std::make_unique<Peers>(std::move(state));
}

Peers::Peers(std::unique_ptr<State> state) : state_(std::move(state)) {}

Peers::~Peers() {
  // First nothing new begins; then the clients end what they still do, and what that posts still runs.
  std::promise<void> closed;
  state_->core.loop->Post([&] {
    state_->core.is_closed = true;
    closed.set_value();
  });
  closed.get_future().wait();
  std::vector<std::unique_ptr<Client>> clients;
  for (const auto& node : state_->core.view->nodes) clients.push_back(std::move(node->client));
  clients.clear();
  state_->core.loop->Close();
  state_->thread.join();
  state_->core.loop->Abandon();
}

bool Peers::HandOver(absl::Duration timeout) {
  const auto done = std::make_shared<std::promise<void>>();
  std::future<void> is_done = done->get_future();
  state_->core.loop->Post([repair = state_->repair, done] { repair->HandOver([done] { done->set_value(); }); });
  return is_done.wait_for(absl::ToChronoMilliseconds(timeout)) == std::future_status::ready;
}

}  // namespace longshelf::kvstore
