#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "cluster_core.h"

namespace longshelf::kvstore {

// One Put. Each object goes to the first nodes of its extent, as many as there are to be replicas; a node that does not
// take it is replaced by the next candidate. One call to each node, in the order of the offers. Lives on the loop;
// keeps itself alive until the last callback.
class ClusterPut final : public Operation, public std::enable_shared_from_this<ClusterPut> {
 public:
  ClusterPut(ClusterCore& core, absl::Duration timeout, Client::PutEvents events);

  void Start();
  void Offer(PutItem item);
  void Finish();
  void Cancel() { Abandon(absl::CancelledError("cancelled by its caller")); }
  void Abandon(const absl::Status& status) override;

 private:
  struct Object {
    PutItem item;  // without its payload once it is answered and nobody is left to offer it to
    std::vector<std::shared_ptr<ClusterNode>> candidates;
    size_t next = 0;       // of the candidates
    size_t n_wanted = 0;   // replicas
    size_t n_enough = 0;   // of them, to be answered
    size_t n_waiting = 0;  // offered, and no outcome yet
    size_t n_in_memory = 0;
    size_t n_durable = 0;
    PutOutcome outcome;  // of the first node that took it
    absl::Status failure;
    bool is_answered = false;
  };
  // The call to one node.
  struct NodePut {
    std::shared_ptr<ClusterNode> node;
    std::shared_ptr<Client::PutCall> call;
    std::vector<size_t> offered;  // which object its n-th offer was
    std::vector<bool> heard;      // per offer: it has its outcome
    bool has_ended = false;
  };

  // Offers to further candidates until as many have it, or may get it, as are wanted.
  void Spread(size_t index);
  std::shared_ptr<NodePut> CallTo(const std::shared_ptr<ClusterNode>& node);
  void OnOutcome(const std::shared_ptr<NodePut>& to, size_t index, const absl::StatusOr<PutOutcome>& outcome);
  void OnNodeDone(const std::shared_ptr<NodePut>& to, const absl::Status& status);
  static bool IsKept(const Object& object);  // what was asked for
  void MaybeAnswer(size_t index);
  void Answer(size_t index, const absl::StatusOr<PutOutcome>& outcome);
  // When everything is answered and taken: ends the calls, and then itself.
  void MaybeEnd();
  void End(const absl::Status& status);

  ClusterCore& core_;
  std::shared_ptr<const ClusterView> view_;  // from the start on
  const absl::Time deadline_;
  Client::PutEvents events_;
  std::shared_ptr<ClusterPut> self_;  // until the last callback
  std::deque<Object> objects_;
  size_t n_waiting_ = 0;                                          // offers without an outcome
  std::map<const ClusterNode*, std::shared_ptr<NodePut>> calls_;  // the last of each node
  size_t n_calls_open_ = 0;
  bool any_node_answered_ = false;
  absl::Status node_failure_;
  bool is_finished_ = false;
};

}  // namespace longshelf::kvstore
