#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bridge_core.h"

namespace longshelf::worker {

// New cache objects on their way to the store, in the order in which they were made, and checkpoints that are to be
// dropped there. One put stream at a time takes what is queued. Lives on the bridge's loop, but for Offer and Drop.
class OffloadQueue : public std::enable_shared_from_this<OffloadQueue> {
 public:
  // Loop: everything offered up to a checkpoint has its outcome, or was lost on the way.
  using OnSettled = std::function<void()>;

  explicit OffloadQueue(BridgeCore& core) : core_(core) {}

  // Any thread. Takes the objects, or drops and counts them, at once.
  void Offer(std::vector<Homes::PutItem> items, OnSettled settled);
  // Any thread. Of checkpoints that were offered before.
  void Drop(std::vector<kvstore::PlacedKey> keys);
  // Loop. Calls back when nothing is queued or under way, at once or later.
  void WhenIdle(std::function<void()> idle);

 private:
  struct Batch {
    std::vector<Homes::PutItem> items;
    std::vector<kvstore::PlacedKey> drops;
    OnSettled settled;
    std::shared_ptr<ByteBudget::Lease> lease;
  };

  void Push(Batch batch);
  void SendNext();
  void SendPut(std::vector<Batch> batches);
  void SendDrop(const std::vector<kvstore::PlacedKey>& keys);
  struct Sent {
    uint64_t n_bytes = 0;
    std::string namespace_id;
  };
  void LeaveOutDeleted(Batch& batch);
  void OnOutcome(const Sent& sent, const absl::StatusOr<kvstore::PutOutcome>& outcome);
  void OnDone(const absl::Status& status);
  void Settle(std::vector<Batch> batches);
  void Count(int64_t n_objects, int64_t n_bytes);

  BridgeCore& core_;
  std::deque<Batch> queue_;
  std::vector<Batch> in_flight_;
  std::shared_ptr<Homes::PutCall> put_;
  bool is_busy_ = false;
  std::function<void()> idle_;
  bool was_answered_ = false;  // a store that took or refused one object is up
  std::atomic<int64_t> n_objects_{0};
  std::atomic<int64_t> n_bytes_{0};
};

}  // namespace longshelf::worker
