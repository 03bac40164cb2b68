#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cluster_client_impl.h"
#include "common/check.h"
#include "faulty_network.h"
#include "repair.h"
#include "simulated_store.h"

namespace longshelf::kvstore {

// Several clients and nodes that repair, in one thread, on a clock that the test moves, with a FaultyNetwork between
// any two of them.
class FaultyCluster {
 public:
  FaultyCluster(size_t n_nodes, size_t n_clients, const RepairOptions& repair, uint64_t seed)
      : network(clock, seed), repair_(repair) {
    for (size_t i = 0; i < n_nodes; ++i) {
      members.push_back({.address = NameOf(i)});
      auto node = std::make_unique<Node>(clock);
      node->store.on_durable = [this, i](const PutItem& item) { WriteToDisk(i, item); };
      nodes_.push_back(std::move(node));
    }
    for (size_t i = 0; i < n_nodes; ++i) Begin(i);
    for (size_t i = 0; i < n_clients; ++i) {
      clients_.push_back(std::make_unique<ClusterClient>(
          clock, repair.n_replicas, nullptr,
          [this, i](const Member& to) { return LinkTo(absl::StrCat("client", i), to.address); }));
      clients_.back()->SetMembers(members);
    }
    Settle();
  }
  ~FaultyCluster() {
    clients_.clear();
    for (const auto& node : nodes_) node->core->loop->Abandon();
  }

  static std::string NameOf(size_t i) { return absl::StrCat("node", i, ":7400"); }
  size_t n_nodes() const { return nodes_.size(); }
  ClusterClient& client(size_t i) { return *clients_[i]; }
  SimulatedStore& node(size_t i) { return nodes_[i]->store; }
  Repair& repair(size_t i) { return *nodes_[i]->repair; }
  // The process is stopped, as by a signal: it does nothing until it goes on, and then everything late.
  void Stop(size_t i, bool is_stopped) { nodes_[i]->is_stopped = is_stopped; }
  // A new process, which finds what was durable, or nothing.
  void Restart(size_t i, bool keeps_disk) {
    Node& node = *nodes_[i];
    node.core->loop->Abandon();
    node.store.Restart();
    if (!keeps_disk) node.disk.clear();
    for (const auto& [key, object] : node.disk) Load(node.store.store(), object);
    Begin(i);
  }
  bool IsOnDisk(size_t i, const ObjectKey& key) const { return nodes_[i]->disk.contains(key); }

  // Everything that can happen now.
  void Settle() {
    for (bool has_run = true; has_run;) {
      for (const auto& client : clients_) client->RunReady();
      for (const auto& node : nodes_) {
        if (!node->is_stopped && node->store.down.ok()) node->core->loop->RunReady();
      }
      has_run = network.Run();
      for (const auto& node : nodes_) has_run = (!node->is_stopped && node->store.Run()) || has_run;
    }
  }
  void Pass(absl::Duration time, absl::Duration step = absl::Milliseconds(1)) {
    for (absl::Duration passed; passed < time; passed += step) {
      clock.Advance(step);
      Settle();
    }
  }

  ManualClock clock;
  std::vector<Member> members;
  FaultyNetwork network;

 private:
  struct Node {
    explicit Node(ManualClock& clock) : store(clock) {}
    SimulatedStore store;
    std::map<ObjectKey, FetchedObject> disk;
    std::unique_ptr<ClusterCore> core;
    std::shared_ptr<Repair> repair;
    bool is_stopped = false;
  };

  std::unique_ptr<Client> LinkTo(const std::string& from, const std::string& to) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (NameOf(i) == to) return std::make_unique<FaultyLink>(network, from, to, nodes_[i]->store);
    }
    LONGSHELF_CHECK(false);
  }
  void Begin(size_t i) {
    Node& node = *nodes_[i];
    node.repair = nullptr;
    // What its calls have not heard of yet still names it.
    if (node.core != nullptr) gone_.push_back(std::move(node.core));
    node.core = std::make_unique<ClusterCore>(clock, repair_.n_replicas, nullptr);
    std::vector<std::shared_ptr<ClusterNode>> others;
    for (const Member& member : members) {
      others.push_back(std::make_shared<ClusterNode>(member, LinkTo(NameOf(i), member.address)));
    }
    node.core->view = std::make_shared<const ClusterView>(std::move(others));
    repair_.self = NameOf(i);
    node.repair = std::make_shared<Repair>(*node.core, repair_, node.store.store(), nullptr);
    node.repair->Start();
  }
  // What the node holds under that name, which need not be what was offered.
  void WriteToDisk(size_t i, const PutItem& item) {
    const auto held = nodes_[i]->store.Read(item.head.key, item.head.fingerprint);
    LONGSHELF_CHECK(held != nullptr);
    nodes_[i]->disk[item.head.key] = *held;
  }
  void Load(Store& store, const FetchedObject& object) {
    auto opened = store.Open(object.head, clock.WallNow());
    LONGSHELF_CHECK(opened.ok());
    auto reservation = std::get<Store::Reservation>(*std::move(opened));
    LONGSHELF_CHECK(reservation.Append(0, object.payload).ok());
    LONGSHELF_CHECK(store.Commit(std::move(reservation), clock.WallNow()).ok());
  }

  RepairOptions repair_;
  std::vector<std::unique_ptr<ClusterCore>> gone_;  // of processes that are no more
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<ClusterClient>> clients_;
};

}  // namespace longshelf::kvstore
