#pragma once

#include <memory>
#include <vector>

#include "cluster_core.h"

namespace longshelf::kvstore {

// One Lookup: each extent of the chain is looked up at its own nodes, all extents at once, and the answers are put
// together. Lives on the loop; keeps itself alive until it has answered.
class ClusterLookup final : public Operation, public std::enable_shared_from_this<ClusterLookup> {
 public:
  ClusterLookup(ClusterCore& core, LookupQuery query, absl::Duration timeout, Client::Done<LookupResult> done);

  void Start();
  void Abandon(const absl::Status& status) override;

 private:
  struct Extent {
    LookupQuery query;
    std::vector<std::shared_ptr<ClusterNode>> candidates;
    size_t next = 0;       // of the candidates
    size_t n_waiting = 0;  // asked, and not heard of yet
    bool has_answer = false;
    bool is_late = false;  // all were asked and had their time
    bool is_done = false;
    LookupResult found;
    absl::Status failure = absl::UnavailableError("no KV store of the cluster can be reached");
  };

  void Split();
  // Asks up to n further nodes; ends the extent when there is nobody to wait for.
  void Ask(size_t extent, size_t n);
  void OnAnswer(size_t extent, const std::shared_ptr<ClusterNode>& node, absl::Time begun,
                const absl::StatusOr<LookupResult>& result);
  // Those asked so far take longer than usual.
  void OnLate(size_t extent, bool all_asked);
  void EndExtent(size_t extent);
  void Finish();

  ClusterCore& core_;
  const std::shared_ptr<const ClusterView> view_;
  const LookupQuery query_;
  const absl::Time deadline_;
  Client::Done<LookupResult> done_;
  std::vector<Extent> extents_;
  size_t n_open_ = 0;
};

}  // namespace longshelf::kvstore
