#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cluster_node.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/task_loop.h"
#include "kvstore/client.h"
#include "placement.h"

// What the operations of one cluster client share. Everything here lives on its loop.
namespace longshelf::kvstore {

// The members at one time. Immutable: an operation keeps the view that it began with.
struct ClusterView {
  explicit ClusterView(std::vector<std::shared_ptr<ClusterNode>> the_nodes, size_t n_leaving_nodes = 0);

  // The first `n` nodes of an extent, best first; and as many more as are leaving, which may be gone already.
  std::vector<std::shared_ptr<ClusterNode>> Candidates(const BlockKey& extent, size_t n) const;

  const std::vector<std::shared_ptr<ClusterNode>> nodes;
  const size_t n_leaving;  // of the nodes
  const Placement placement;
};

struct ClusterMetrics {
  explicit ClusterMetrics(Metrics& metrics);
  prometheus::Counter& hedged;
  prometheus::Counter& failed_over;
  prometheus::Gauge& members;
  prometheus::Gauge& unreachable;
};

// A node that is well answers within this.
inline constexpr absl::Duration kFairWait = absl::Seconds(1);

// Something under way. Ended early when the client goes.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual void Abandon(const absl::Status& status) = 0;
};

struct ClusterCore {
  ClusterCore(const Clock& the_clock, uint32_t n_replicas_usual, Metrics* metrics)
      : clock(the_clock),
        loop(std::make_shared<TaskLoop>(the_clock)),
        n_replicas(n_replicas_usual),
        counters(metrics == nullptr ? nullptr : std::make_unique<ClusterMetrics>(*metrics)) {}

  size_t n_candidates() const { return n_replicas + kSpareCandidates; }
  // Whether a node may be asked now; if so, how it went is to be reported.
  bool MayCall(ClusterNode& node);
  // `waited`: how long the node had. Too late for an impatient caller is not too late.
  void Report(ClusterNode& node, const absl::Status& status, absl::Duration waited = absl::InfiniteDuration());
  void Register(const std::shared_ptr<Operation>& operation);

  const Clock& clock;
  const std::shared_ptr<TaskLoop> loop;
  const uint32_t n_replicas;
  const std::unique_ptr<ClusterMetrics> counters;
  std::shared_ptr<const ClusterView> view;
  std::vector<std::weak_ptr<Operation>> operations;
  bool is_closed = false;
};

// UNAVAILABLE, or what says as much of a node.
bool IsNodeDown(const absl::Status& status);

}  // namespace longshelf::kvstore
