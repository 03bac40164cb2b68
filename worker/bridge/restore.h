#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bridge_core.h"
#include "chain.h"
#include "restore_feed.h"
#include "worker/prefix_source.h"

namespace longshelf::worker {

// One request's way in, from the lookup to the last block. Lives on the bridge's loop.
//
// It is looked up first; what the store says to have becomes candidates, by names computed from the request's own
// tokens. Blocks that reach further than any checkpoint are one too: the engine replays the state. When the engine has
// admitted the sequence, candidates are ordered by the time until the prompt is done, fetching and computing together.
// The state of the first that is fetched faster than computed is fetched, then blocks, which go to the engine one by
// one, never more at a time than the lease holds. When something is missing or damaged, the next candidate is gone on
// with, if one is left that is worth it.
//
// The time a restore may cost a request, from its arrival on, is what computing the prefix would take, or
// KvBridgeOptions::shortest_wait: so long the lookup is waited for, and so long, less that, the fetch.
class Restore : public std::enable_shared_from_this<Restore> {
 public:
  Restore(BridgeCore& core, absl::Time arrived_at, Chain chain, std::function<void(RestoreOutcome)> done,
          std::shared_ptr<const std::atomic<bool>> cancelled)
      : core_(core),
        arrived_at_(arrived_at),
        chain_(std::move(chain)),
        done_(std::move(done)),
        cancelled_(std::move(cancelled)) {}

  // `tokens` name the candidates; they are not kept.
  void Start(std::vector<uint32_t> tokens);
  // The bridge goes: whoever waits for the lookup is told.
  void Abandon();

 private:
  struct Candidate {
    kvstore::BlockKey key{};
    int64_t n_tokens = 0;
    int64_t n_replayed = 0;  // of these tokens, for want of a state; 0: there is one
    bool has_state() const { return n_replayed == 0; }
    bool has_tail() const;
    int64_t n_gained() const { return n_tokens - n_replayed; }
  };
  using Task = void (Restore::*)();

  void OnLookup(const std::vector<uint32_t>& tokens, const absl::StatusOr<kvstore::LookupResult>& found);
  void OnLookupTimeout();
  std::string TakeCandidates(const std::vector<uint32_t>& tokens, const kvstore::LookupResult& found);
  void Answer(RestoreOutcome outcome);
  std::shared_ptr<RestoreFeed> MakeFeed();

  uint64_t BytesOf(const Candidate& candidate) const;
  absl::Duration TimeWith(const Candidate& candidate) const;
  absl::Duration AllowedFor(const Candidate& candidate) const;
  bool IsWorth(const Candidate& candidate);

  void OnBegin(uint32_t attempt, uint16_t shard, int64_t n_blocks);
  void SetDeadline();
  void OnLease(uint32_t attempt, const std::shared_ptr<ByteBudget::Lease>& lease);
  void OnTaken(uint32_t attempt, uint64_t n_bytes);
  void OnStop();
  void OnDeadline(uint32_t attempt);
  void OnOutOfTime();

  void FetchNext();
  void Fetch(std::vector<kvstore::GetItem> items);
  void OnObject(uint32_t call, size_t index, absl::StatusOr<engine::KvCopyPtr> copy);
  void OnFetched(uint32_t call, const absl::Status& status);
  void OnGone(const std::string& reason);
  bool IsHeld(const Candidate& candidate) const;
  void NextCandidate();
  void EndCall();
  void CountDone(const Candidate& candidate);
  void Finish(int64_t n_tokens);
  uint64_t LeaseBytes() const;
  int64_t n_next() const { return first_block_ + n_delivered_; }

  BridgeCore& core_;
  const absl::Time arrived_at_;
  const Chain chain_;
  std::function<void(RestoreOutcome)> done_;
  const std::shared_ptr<const std::atomic<bool>> cancelled_;

  absl::Time begun_at_;                           // the lookup
  absl::Duration waited_ = absl::ZeroDuration();  // from the arrival to the lookup's answer
  std::vector<Candidate> candidates_;             // what gains most first; of an attempt, the fastest
  std::weak_ptr<RestoreFeed> feed_;

  // Of the attempt that runs; 0: none does.
  uint32_t attempt_ = 0;
  uint16_t shard_ = 0;  // where the sequence is at home
  absl::Time deadline_;
  absl::Time attempt_at_;
  size_t candidate_ = 0;
  int n_fetched_candidates_ = 0;
  std::string reason_;
  std::shared_ptr<ByteBudget::Lease> lease_;
  absl::Time asked_at_;        // the store, once there was memory
  uint64_t n_bytes_come_ = 0;  // of every candidate
  int64_t first_block_ = 0;
  int64_t n_delivered_ = 0;   // blocks from first_block_ on
  int64_t end_block_ = 0;     // the first block that cannot be had
  uint64_t n_bytes_out_ = 0;  // delivered, not yet taken
  engine::KvCopyPtr state_;
  engine::KvCopyPtr tail_;
  bool has_state_ = false;  // or needs none

  uint32_t call_ = 0;  // number of the newest one
  std::shared_ptr<kvstore::Client::GetCall> get_;
  std::vector<kvstore::GetItem> items_;  // of that call
  bool fetch_again_ = false;             // when what was delivered is taken
};

}  // namespace longshelf::worker
