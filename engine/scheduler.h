#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "engine/engine_config.h"
#include "engine/observer.h"
#include "engine/step_plan.h"
#include "fair_share.h"
#include "prefix_cache.h"
#include "sequence.h"

namespace longshelf::engine {

// Which sequences run, where, and with which slot and blocks.
//
// Admission. A request that could never fit was refused when it came. A sequence is admitted when a shard has a free
// slot and can promise the blocks of everything given plus admission_headroom_tokens of output (or all it may ever
// need, when that is less). Which is next is FairShare's word: the flow (tenant and tier) that was served least, and in
// it the earliest arrival. One that has to wait for blocks may be passed by at most kBypassesMax others that fit, so it
// gets its turn. When all slots are taken, a flow that runs more than its share gives one up to a flow that runs less.
//
// Growth. A sequence that needs a block beyond its promise gets one if the shard has one. Otherwise it waits a step, in
// which the latest arrival on that shard is preempted. The earliest arrival on a shard is never preempted and fits
// alone, so it always ends: there is nothing to deadlock on and nothing starves.
//
// Restoring. A sequence with a feed that leads further than the local cache takes blocks from it, into the memory it
// was admitted with, before it computes anything. When it is preempted meanwhile, or the feed breaks, what has arrived
// is in the cache.
//
// Replaying. Blocks without a checkpoint at their end are of use too: the state there is rebuilt by processing the last
// GroupShape::replay_tokens of them once more, when that are fewer than what lies behind the last checkpoint.
//
// Leaving. A sequence that ended or is preempted keeps slot and blocks for one step more: the step copies its state
// into the cache, beside its full blocks. A preempted one goes back to its place in the queue and continues from there;
// it is computed again only as far as the cache has lost of it meanwhile, to the same bits, so nobody can tell.
//
// Home shard. The cheapest, counting the prompt tokens left to compute after reuse plus kTokensPerRunning for each
// sequence at home there; ties go to the lowest shard.
//
// Owner thread: the leader's engine thread.
class Scheduler {
 public:
  static constexpr uint32_t kBypassesMax = 16;
  static constexpr int64_t kTokensPerRunning = 256;

  Scheduler(const EngineConfig& config, const GroupShape& shape, PrefixCache& cache);

  bool is_queue_full() const { return waiting_.size() >= config_.n_waiting_max; }
  bool Knows(uint64_t id) const { return by_id_.contains(id); }
  // REQUIRES: the queue is not full and the id is new.
  void Enqueue(std::unique_ptr<Sequence> sequence);
  // Null when unknown.
  Sequence* Find(uint64_t id) const;

  // Lets every running sequence process all its tokens, or marks it as lacking room and preempts for it. Before
  // Admit().
  void MakeRoom();
  // Admits what fits: gives slots, holds reused blocks, adds open_slots to the plan, emits Started.
  void Admit(StepPlan& plan);
  // A block of a restoring sequence's feed is about to be imported into the returned block. REQUIRES: WantsBlock().
  uint32_t TakeBlock(Sequence& sequence);
  // Whether a feed may bring one more block.
  static bool WantsBlock(const Sequence& sequence);
  // The feed of a restoring sequence has ended: it goes on from there, or from what is held here when that is further.
  void EndRestore(Sequence& sequence, PrefixFeed::End end);
  // Makes `sequence` hold the blocks for its first n_tokens. REQUIRES: within its promise, as after MakeRoom().
  void GrowTo(Sequence& sequence, int64_t n_tokens);
  // Puts its new full blocks into the cache; `fresh` (may be null) receives those that were not there, by number.
  void Publish(Sequence& sequence, std::vector<int64_t>* fresh);
  // Takes it out, wherever it is: its slot, blocks and promises are free again.
  std::unique_ptr<Sequence> Remove(uint64_t id);
  // A running sequence has ended. Its id is free; it is leaving.
  void Retire(uint64_t id);
  // What was leaving before this step has been copied out: it is free, or waits again.
  void ReleaseLeaving();

  struct Leaving {
    std::unique_ptr<Sequence> sequence;
    bool comes_back = false;  // preempted, not ended
  };
  const std::vector<Leaving>& leaving() const { return leaving_; }
  // Everything that has not ended.
  std::vector<uint64_t> AllIds() const;

  // Both in order of arrival.
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const std::deque<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  Load CurrentLoad() const;

  // Aborts when slots, blocks and promises do not add up. For tests.
  void CheckInvariants() const;

 private:
  struct Home {
    int shard = 0;
    int64_t cost = 0;
    PrefixMatch match;
    int64_t n_tokens_reused = 0;
    int64_t n_blocks_local = 0;  // leading blocks that are held instead of allocated
    bool uses_feed = false;
  };
  std::optional<Home> ChooseHome(const Sequence& sequence) const;
  std::optional<Home> TryShard(const Sequence& sequence, int shard) const;
  void Place(Sequence& sequence, Home home, StepPlan& plan);
  struct Candidates;
  std::vector<Candidates> CandidatesByFlow() const;
  bool HasFreeSlot() const;
  bool ContinuesLeaving(const Sequence& sequence) const;
  void MoveOutForFairness(const Flow& flow);
  // Promises a sequence the blocks that its tokens lack, or moves out who is in the way, perhaps itself. n_coming:
  // blocks of those that leave in this step, not spoken for.
  void PromiseOrPreempt(Sequence& sequence, int64_t& n_coming);
  // Preempts a running sequence: it is leaving, and comes back.
  void MoveOut(Sequence& sequence);
  Sequence& LatestOnShard(int shard) const;
  bool IsEarliestOnShard(const Sequence& sequence) const;
  void WaitAgain(std::unique_ptr<Sequence> sequence);
  std::unique_ptr<Sequence> TakeFromLeaving(const Sequence& sequence);
  // Frees slot, blocks and promises.
  void GiveBack(Sequence& sequence);
  // Blocks it is promised at first.
  int64_t BlocksAtAdmission(const Sequence& sequence) const;
  // Where it goes on from, of what is in the cache of its home shard.
  void ResumeFrom(Sequence& sequence, PrefixMatch match);
  // Where a state replayed over `match`'s blocks begins, when that takes fewer tokens than going on from its
  // checkpoint.
  std::optional<int64_t> ReplayBegin(const PrefixMatch& match) const;
  void HoldExactly(Sequence& sequence, int64_t n);
  void EmitStarted(Sequence& sequence, int64_t n_local, std::string miss_reason);
  std::string MissReason(const Sequence& sequence, const PrefixMatch& match) const;

  const EngineConfig config_;
  const GroupShape shape_;
  PrefixCache& cache_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::vector<Leaving> leaving_;
  std::unordered_map<uint64_t, Sequence*> by_id_;
  std::vector<std::set<uint16_t>> free_slots_;  // per shard
  std::vector<uint32_t> n_running_;             // per shard
  FairShare fair_share_;
  uint64_t n_arrived_ = 0;
  uint64_t n_moved_out_ = 0;
  uint64_t n_token_mismatches_ = 0;
  bool someone_lacks_room_ = false;
  // Nothing was enqueued or freed since the last Admit: trying again would end the same.
  bool nothing_changed_ = false;
};

}  // namespace longshelf::engine
