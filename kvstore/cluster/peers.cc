#include "kvstore/peers.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cluster_core.h"
#include "common/log.h"
#include "common/status.h"
#include "dns_watcher.h"
#include "kvstore/members.h"
#include "membership.h"
#include "repair.h"

namespace longshelf::kvstore {

struct Peers::State {
  State(const Clock& clock, const PeerOptions& options, Metrics& metrics)
      : core(clock, options.n_replicas, /*metrics=*/nullptr),
        counters(metrics),
        membership(
            core,
            [token = options.token, tls = options.tls, host = DnsHost(options.stores)](const Member& member) {
              return MakeClient({.address = member.address, .token = token, .tls = tls, .tls_name = host});
            },
            [this] {
              if (repair != nullptr) repair->OnMembers();
            }) {}

  ClusterCore core;
  RepairMetrics counters;
  Membership membership;           // the loop's
  std::shared_ptr<Repair> repair;  // the same
  std::thread thread;
  std::unique_ptr<DnsWatcher> watcher;
};

namespace {

bool IsNamed(const std::vector<Member>& members, const std::string& address) {
  return std::any_of(members.begin(), members.end(), [&](const Member& member) { return member.address == address; });
}

// At the start: all of a list, or this node of a name, which may not be there under it before it serves.
absl::StatusOr<std::vector<Member>> FirstMembers(const PeerOptions& options) {
  if (DnsName(options.stores).empty()) {
    ASSIGN_OR_RETURN(std::vector<Member> members, ParseMembers(options.stores));
    if (IsNamed(members, options.advertise)) return members;
    return absl::InvalidArgumentError(
        absl::StrCat("--peers: does not name this node, ", options.advertise, "; see --advertise"));
  }
  RETURN_IF_ERROR(CheckStores(options.stores));
  ASSIGN_OR_RETURN(std::vector<Member> members, ParseMembers(options.advertise));
  if (members.size() == 1 && !options.advertise.starts_with("0.0.0.0:") && !options.advertise.starts_with("[::]:")) {
    return members;
  }
  return absl::InvalidArgumentError(absl::StrCat("--advertise: ", options.advertise,
                                                 " is not the address that this node has under ", options.stores));
}

RepairOptions RepairOptionsOf(const PeerOptions& options) {
  RepairOptions repair;
  repair.self = options.advertise;
  repair.n_replicas = options.n_replicas;
  repair.n_manifests = options.n_replicas + 1;
  repair.bytes_per_s = options.repair_bytes_per_s;
  repair.down_after = options.down_after;
  repair.interval = options.repair_interval;
  return repair;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Peers>> Peers::Start(const PeerOptions& options, Store& store, const Clock& clock,
                                                    Metrics& metrics) {
  ASSIGN_OR_RETURN(const std::vector<Member> first, FirstMembers(options));
  // Whatever is wrong with the token or an address is said now.
  for (const Member& member : first) {
    RETURN_IF_ERROR(MakeClient({.address = member.address, .token = options.token}).status());
  }
  auto state = std::make_unique<State>(clock, options, metrics);
  state->core.loop->Post([raw = state.get(), first, repair = RepairOptionsOf(options), &store] {
    raw->membership.Use(first, absl::ZeroDuration());
    raw->repair = std::make_shared<Repair>(raw->core, repair, store, &raw->counters);
    raw->repair->Start();
  });
  state->thread = std::thread([loop = state->core.loop] { loop->RunUntilClosed(); });
  if (const std::string name(DnsName(options.stores)); !name.empty()) {
    const auto use = [raw = state.get(), self = first.front(), name,
                      leave_after = options.leave_after](std::vector<Member> members) {
      if (!IsNamed(members, self.address)) {
        spdlog::warn("--peers: {} does not give this store's address, {}", name, self.address);
        members.push_back(self);
      }
      raw->core.loop->Post([raw, members, leave_after] { raw->membership.Use(members, leave_after); });
    };
    state->watcher = std::make_unique<DnsWatcher>(name, options.resolve_interval, use, options.resolve);
  }
  return std::make_unique<Peers>(std::move(state));
}

Peers::Peers(std::unique_ptr<State> state) : state_(std::move(state)) {}

Peers::~Peers() {
  state_->watcher.reset();
  // First nothing new begins; then the clients end what they still do, and what that posts still runs.
  std::promise<std::vector<std::unique_ptr<Client>>> closed;
  state_->core.loop->Post([&] {
    state_->core.is_closed = true;
    closed.set_value(state_->membership.Close());
  });
  closed.get_future().get().clear();
  state_->core.loop->Close();
  state_->thread.join();
  state_->core.loop->Abandon();
}

bool Peers::HandOver(absl::Duration timeout) {
  const auto done = std::make_shared<std::promise<void>>();
  std::future<void> is_done = done->get_future();
  state_->core.loop->Post([state = state_.get(), done] { state->repair->HandOver([done] { done->set_value(); }); });
  return is_done.wait_for(absl::ToChronoMilliseconds(timeout)) == std::future_status::ready;
}

}  // namespace longshelf::kvstore
