#include "cluster_core.h"

#include <algorithm>

namespace longshelf::kvstore {
namespace {

std::vector<Member> MembersOf(const std::vector<std::shared_ptr<ClusterNode>>& nodes) {
  std::vector<Member> members;
  for (const auto& node : nodes) members.push_back(node->member);
  return members;
}

}  // namespace

bool IsNodeDown(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

ClusterView::ClusterView(std::vector<std::shared_ptr<ClusterNode>> the_nodes, size_t n_leaving_nodes)
    : nodes(std::move(the_nodes)), n_leaving(n_leaving_nodes), placement(MembersOf(nodes)) {}

std::vector<std::shared_ptr<ClusterNode>> ClusterView::Candidates(const BlockKey& extent, size_t n) const {
  std::vector<std::shared_ptr<ClusterNode>> candidates;
  for (const size_t i : placement.Candidates(extent, n + n_leaving)) candidates.push_back(nodes[i]);
  return candidates;
}

ClusterMetrics::ClusterMetrics(Metrics& metrics)
    : hedged(
          metrics.AddCounter("longshelf_kvstore_client_hedged_reads_total",
                             "Reads that were also sent to a second store because the first took longer than usual")),
      failed_over(metrics.AddCounter("longshelf_kvstore_client_failovers_total",
                                     "Objects looked for, or put, on a further store because one had failed")),
      members(metrics.AddGauge("longshelf_kvstore_client_stores", "Stores that this process knows")),
      unreachable(metrics.AddGauge("longshelf_kvstore_client_unreachable_stores",
                                   "Stores of those that do not answer and are left alone for now")) {}

bool ClusterCore::MayCall(ClusterNode& node) {
  return !is_closed && node.client != nullptr && node.breaker.MayCall(clock.Now());
}

void ClusterCore::Report(ClusterNode& node, const absl::Status& status, absl::Duration waited) {
  // Of a node that had no time, and of one that was not waited for, this says nothing.
  if ((absl::IsDeadlineExceeded(status) && waited < kFairWait) || absl::IsCancelled(status)) return;
  const absl::Time now = clock.Now();
  if (IsNodeDown(status)) {
    node.breaker.Failed(now);
  } else {
    node.breaker.Answered(absl::ZeroDuration());
  }
  if (counters == nullptr || view == nullptr) return;
  const auto n_down = std::count_if(view->nodes.begin(), view->nodes.end(),
                                    [now](const auto& each) { return each->breaker.is_open(now); });
  counters->members.Set(static_cast<double>(view->nodes.size()));
  counters->unreachable.Set(static_cast<double>(n_down));
}

void ClusterCore::Register(const std::shared_ptr<Operation>& operation) {
  std::erase_if(operations, [](const std::weak_ptr<Operation>& one) { return one.expired(); });
  operations.push_back(operation);
}

}  // namespace longshelf::kvstore
