#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cluster_core.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {

struct RepairOptions {
  std::string self;          // as the other members name this one
  uint32_t n_replicas = 2;   // of blocks, tails and checkpoints that are parked
  uint32_t n_manifests = 3;  // of manifests: without them nobody finds the rest
  uint64_t bytes_per_s = uint64_t{64} << 20;
  absl::Duration interval = absl::Minutes(10);
  absl::Duration check_interval = absl::Seconds(1);
  // A member that was not heard of for so long is replaced; until then it may just be restarting.
  absl::Duration down_after = absl::Seconds(60);
};

struct RepairMetrics {
  explicit RepairMetrics(Metrics& metrics);
  prometheus::Gauge& missing;
  prometheus::Gauge& members_down;
  prometheus::Counter& copied;
  prometheus::Counter& copied_bytes;
  prometheus::Counter& passes;
};

// Sees to it that what this node retains is on as many live nodes as it should be: goes over it every `interval`,
// whenever a member has gone or come, and when one has found something damaged; asks the nodes that should have it
// whether they do, and sends what they lack, no faster than it may. Everybody who has an object does so; the second to
// offer it is told that it is there.
//
// Lives on the loop of its core, whose view names all members, this one included.
class Repair : public std::enable_shared_from_this<Repair> {
 public:
  // Everything must outlive it.
  Repair(ClusterCore& core, const RepairOptions& options, Store& store, RepairMetrics* metrics)
      : core_(core), options_(options), store_(store), metrics_(metrics) {}

  void Start();
  // The core has another view.
  void OnMembers();
  // Before it leaves for good: passes that count this node as gone, until one has found nothing missing; then `done`.
  void HandOver(std::function<void()> done);

 private:
  using NodePtr = std::shared_ptr<ClusterNode>;
  // Some of the objects that one node should have, all retained until one time.
  struct Batch {
    NodePtr node;
    absl::Time until;
    std::vector<ObjectHead> heads;
  };

  bool IsSelf(const ClusterNode& node) const { return node.member.address == options_.self; }
  bool IsLive(const ClusterNode& node) const;
  // Which nodes should have an object, without this one.
  std::vector<NodePtr> TargetsOf(const ObjectHead& head) const;

  void SeeMembers();
  void CheckMembers();
  void OnChecked(const NodePtr& node, const absl::StatusOr<StoreStats>& stats);
  // A member has found damage, and removed it, or had no memory: a pass, not long from now.
  void MendSoon();
  void BeginPass();
  void NextPage();
  void NextBatch();
  void OnTouched(const Batch& batch, const absl::StatusOr<TouchResult>& touched);
  // Sends what the node lacks, one object after another.
  void CopyNext();
  void Read(const ObjectHead& head, std::function<void(absl::StatusOr<PutItem>)> done);
  void OnRead(absl::StatusOr<PutItem> item);
  // `call`: whether the node answered at all.
  void OnPut(uint64_t n_bytes, const absl::StatusOr<PutOutcome>& outcome, const absl::Status& call);
  void EndPass();

  ClusterCore& core_;
  const RepairOptions options_;
  Store& store_;
  RepairMetrics* const metrics_;

  struct Seen {
    absl::Time at;
    bool is_live = true;
    bool is_asked = false;
    uint64_t n_damaged = 0;  // objects that it removed, when last asked
  };
  std::map<const ClusterNode*, Seen> seen_;

  bool is_running_ = false;
  bool again_ = false;  // members changed while a pass ran
  bool will_mend_ = false;
  absl::Time mended_at_ = absl::InfinitePast();
  bool is_leaving_ = false;
  std::function<void()> on_handed_over_;
  uint32_t pass_ = 0;
  Store::RetainedCursor cursor_;
  std::vector<Batch> batches_;
  Batch lacking_;  // of one node
  uint64_t n_missing_ = 0;
  absl::Time may_send_at_ = absl::InfinitePast();
};

}  // namespace longshelf::kvstore
