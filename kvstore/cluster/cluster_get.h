#pragma once

#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "cluster_core.h"

namespace longshelf::kvstore {

// One Get. Objects are delivered in order; the run of those that follow each other in one extent is asked of the
// extent's first node. Where that node fails, the next one goes on from the object that is due. A node that lets us
// wait longer than usual has to race the next one: whoever gives the due object first goes on.
//
// What was delivered and not released bounds the whole, not each node.
// Lives on the loop; keeps itself alive until the last callback.
class ClusterGet final : public Operation, public std::enable_shared_from_this<ClusterGet> {
 public:
  ClusterGet(ClusterCore& core, Client::GetRequest request, Client::GetEvents events);

  void Start();
  void Release(uint64_t n_bytes);
  void Cancel() { Abandon(absl::CancelledError("cancelled by its caller")); }
  void Abandon(const absl::Status& status) override;

 private:
  // One node's Get of a part of the run.
  struct Attempt {
    std::shared_ptr<ClusterNode> node;
    size_t candidate = 0;
    std::shared_ptr<Client::GetCall> call;
    size_t first = 0;  // index of its first item
    absl::Time begun;
    bool is_heard = true;  // false: given up, what it still says is dropped
    bool has_answered = false;
    bool has_lost = false;  // another gave the due object while this one had said nothing yet
  };

  void StartRun();
  // Asks the next candidate for the due object and the rest of the run. False: there is none left.
  bool StartAttempt();
  void OnObject(const std::shared_ptr<Attempt>& attempt, size_t index, absl::StatusOr<FetchedObject> object);
  void OnDone(const std::shared_ptr<Attempt>& attempt, const absl::Status& status);
  // The next object is due then.
  void Deliver(absl::StatusOr<FetchedObject> object);
  // The due object is not to be had from this node.
  void OnMiss(const std::shared_ptr<Attempt>& attempt, const absl::Status& status);
  // Goes on with the due object: who is at it, the next candidate, or, when there is none, its failure.
  void GoOn();
  // The receiver has as much as it wanted: whoever waits, waits for it.
  bool IsHeldUp() const;
  void GiveUp(std::shared_ptr<Attempt> attempt);
  void SetHedgeTimer();
  void OnLate(size_t due, const std::shared_ptr<Attempt>& slow, bool is_last);
  void End();

  ClusterCore& core_;
  std::shared_ptr<const ClusterView> view_;  // from the start on
  const Client::GetRequest request_;
  const absl::Time deadline_;
  Client::GetEvents events_;
  std::shared_ptr<ClusterGet> self_;  // until the last callback
  size_t due_ = 0;                    // the next object to deliver
  size_t run_end_ = 0;
  uint64_t n_out_ = 0;  // delivered and not released

  std::set<const ClusterNode*> too_slow_;  // for this call; not asked any more

  // Of the run.
  std::vector<std::shared_ptr<ClusterNode>> candidates_;
  std::vector<bool> asked_;  // per candidate: for the due object
  absl::Status miss_;        // why the due object was not to be had so far
  std::deque<std::shared_ptr<Attempt>> attempts_;
  bool go_on_when_released_ = false;  // the window is full
};

}  // namespace longshelf::kvstore
