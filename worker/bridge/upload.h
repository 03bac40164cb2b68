#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bridge_core.h"

namespace longshelf::worker {

// A chain of blocks and the checkpoint at its end, as they are to be in the store.
struct UploadOrder {
  std::string namespace_id;
  engine::PrefixKey root{};
  std::vector<engine::PrefixKey> blocks;
  engine::CachedCheckpoint at;
  kvstore::ObjectClass object_class = kvstore::ObjectClass::kCache;
  absl::Time retain_until = absl::UnixEpoch();  // of parked ones
  kvstore::Ack ack = kvstore::Ack::kMemoryOne;  // of parked ones: what the answer waits for
  uint32_t n_replicas = 1;
  absl::Duration timeout;
};

struct UploadResult {
  uint64_t n_objects = 0;  // of the chain, also those that were there
  uint64_t n_bytes = 0;
  uint64_t n_blocks_sent = 0;
};

// Brings one chain into the store: looks what is there, which parking then claims by Touch, and sends the rest, parents
// first and the state last, read from the engine as the store takes it, so that it never holds more than a few blocks.
// Used to park, and to heal what the store has lost. Lives on the bridge's loop; keeps itself alive until it has
// answered.
//
// A retention cannot be taken back, and what a park finds or brings may be another's by the time it fails. So until
// everything is there it is held for a little longer than the park may take, and then retained for as long as was asked
// for. Of a park that fails the store has cache soon after, and nobody loses anything.
//
// UNAVAILABLE: the store is gone. RESOURCE_EXHAUSTED: it has no room for the promise. NOT_FOUND: a block is not held
// any more. DEADLINE_EXCEEDED: it did not take everything in time.
class Upload : public std::enable_shared_from_this<Upload> {
 public:
  using Done = std::function<void(absl::StatusOr<UploadResult>)>;
  Upload(BridgeCore& core, UploadOrder order, Done done)
      : core_(core), order_(std::move(order)), done_(std::move(done)) {}

  void Start();
  void Abandon(const absl::Status& status) { End(status); }

 private:
  class Sink;

  void OnLookup(const absl::StatusOr<kvstore::LookupResult>& found);
  // Holds blocks [first, end) that are there already; what is not is sent.
  void HoldPresent(size_t first, size_t end);
  // All was taken: retains it, from block `first` on. What the disks are to have is asked of them before that.
  void Retain(size_t first, absl::Time until);
  void OnRetained(size_t next, absl::Time until, const absl::StatusOr<kvstore::TouchResult>& touched);
  kvstore::TouchQuery RetentionOf(size_t first, size_t end, absl::Time until) const;
  void TakeLease(size_t first);
  void SendBlocks(size_t first);
  void OnBlock(engine::ParkedObject block);
  void OnBlocksEnd(const absl::Status& status);
  void SendState(const absl::StatusOr<engine::FoundPrefix>& found);
  void Offer(engine::ParkedObject object);
  void OfferItem(Homes::PutItem item);
  void OnOutcome(uint32_t call, size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome);
  void OnCallDone(uint32_t call, const absl::Status& status);
  void RollCall();
  void MaybeEnd();
  // Ends it when what is under way has its outcome, so that nothing is left of it.
  void Refuse(const absl::Status& status);
  // A call as a whole failed, or time is up.
  void BreakOff(const absl::Status& status);
  void Ask() { asked_at_ = std::min(asked_at_, core_.clock.Now()); }
  // Of what was asked, something has been answered.
  void Hear();
  bool HasOffers() const;  // without an outcome
  void End(const absl::Status& status);
  bool is_parking() const { return order_.object_class == kvstore::ObjectClass::kParked; }
  // What the answer promises of memory alone.
  kvstore::Ack MemoryAck() const {
    return order_.ack == kvstore::Ack::kMemoryOne ? kvstore::Ack::kMemoryOne : kvstore::Ack::kMemoryAll;
  }
  absl::Duration TimeLeft() const { return deadline_ - core_.clock.Now(); }

  BridgeCore& core_;
  UploadOrder order_;
  Done done_;
  absl::Time deadline_;
  absl::Time held_until_;  // wall clock; of parked ones
  std::shared_ptr<ByteBudget::Lease> lease_;
  std::shared_ptr<Sink> sink_;
  UploadResult result_;
  std::vector<kvstore::PlacedKey> at_end_;  // state and tail

  struct Call {
    std::shared_ptr<Homes::PutCall> put;
    std::map<size_t, Homes::PutItem> offered;  // without an outcome yet
    size_t n_offered = 0;
  };
  std::map<uint32_t, Call> calls_;
  uint32_t call_ = 0;     // the one that takes offers
  size_t n_waiting_ = 0;  // busy, to be offered again
  absl::Time last_progress_;
  bool all_offered_ = false;
  absl::Time asked_at_ = absl::InfiniteFuture();  // since when the store has left something without an answer
  bool was_answered_ = false;
  absl::Status refusal_;  // not OK: ends so
  bool is_broken_off_ = false;
  bool waits_for_disks_ = false;
};

}  // namespace longshelf::worker
