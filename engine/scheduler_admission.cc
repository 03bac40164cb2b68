#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/check.h"
#include "scheduler.h"
#include "sequence_list.h"

namespace longshelf::engine {

// One flow's waiting sequences in order of arrival, and how many of them were tried in vain.
struct Scheduler::Candidates {
  const Flow* flow;
  std::vector<Sequence*> sequences;
  size_t next = 0;
};

std::vector<Scheduler::Candidates> Scheduler::CandidatesByFlow() const {
  std::vector<Candidates> out;
  std::unordered_map<const Flow*, size_t> index;  // looked up only
  for (const auto& sequence : waiting_) {
    const auto [it, is_new] = index.try_emplace(sequence->flow, out.size());
    if (is_new) out.push_back({sequence->flow, {}});
    out[it->second].sequences.push_back(sequence.get());
  }
  return out;
}

void Scheduler::Admit(StepPlan& plan) {
  if (nothing_changed_ || someone_lacks_room_) return;
  nothing_changed_ = true;
  std::vector<Candidates> flows = CandidatesByFlow();
  std::vector<Sequence*> blocked;
  while (true) {
    std::erase_if(flows, [](const Candidates& flow) { return flow.next == flow.sequences.size(); });
    if (flows.empty()) return;
    Candidates& flow = *std::min_element(flows.begin(), flows.end(), [](const Candidates& a, const Candidates& b) {
      return FairShare::IsNextBefore(*a.flow, *b.flow);
    });
    Sequence& sequence = *flow.sequences[flow.next++];
    if (!HasFreeSlot()) {
      MoveOutForFairness(*sequence.flow);
      nothing_changed_ = false;  // who runs is not all it depends on
      return;
    }
    if (ContinuesLeaving(sequence)) {
      nothing_changed_ = false;
      continue;
    }
    std::optional<Home> home = ChooseHome(sequence);
    if (!home.has_value()) {
      if (blocked.size() >= kBypassesMax || sequence.n_bypassed >= kBypassesMax) return;
      blocked.push_back(&sequence);
      continue;
    }
    for (Sequence* passed : blocked) ++passed->n_bypassed;
    InsertByArrival(running_, TakeFrom(waiting_, sequence));
    Place(sequence, *std::move(home), plan);
  }
}

bool Scheduler::HasFreeSlot() const {
  if (running_.size() >= config_.n_sequences_max) return false;
  return std::any_of(free_slots_.begin(), free_slots_.end(), [](const auto& slots) { return !slots.empty(); });
}

// What it would resume from is still in the slot of a sequence that is about to leave: next step it is in the cache.
bool Scheduler::ContinuesLeaving(const Sequence& sequence) const {
  if (sequence.no_cache_read || !cache_.enabled()) return false;
  return std::any_of(leaving_.begin(), leaving_.end(), [&](const Leaving& leaving) {
    const Sequence& before = *leaving.sequence;
    const auto n_blocks = static_cast<size_t>(before.n_past / kBlockTokens);
    if (!before.publishes || sequence.n_reusable() < before.n_past || before.chain.root() != sequence.chain.root() ||
        before.chain.keys().size() < n_blocks) {
      return false;
    }
    const auto n = static_cast<int64_t>(n_blocks);
    if (before.chain.DigestAt(n) != sequence.chain.DigestAt(n)) return false;
    const auto tail = static_cast<std::ptrdiff_t>(n_blocks) * kBlockTokens;
    return std::equal(before.tokens.begin() + tail, before.tokens.begin() + before.n_past,
                      sequence.tokens.begin() + tail);
  });
}

// Every slot is taken and `flow` is next. When another flow runs more than its share even with one less, its latest
// arrival gives its place up.
void Scheduler::MoveOutForFairness(const Flow& flow) {
  if (!leaving_.empty()) return;  // their slots come first
  const auto share = [](const Flow& of, uint32_t n_running) { return n_running / FairShare::Weight(of.tier); };
  Sequence* victim = nullptr;
  for (const auto& sequence : running_) {  // the latest of the flow that runs most, of those that may be preempted
    const Flow& other = *sequence->flow;
    if (share(other, other.n_running - 1) < share(flow, flow.n_running + 1)) continue;
    if (sequence->is_importing() || IsEarliestOnShard(*sequence)) continue;
    if (victim != nullptr && share(*victim->flow, victim->flow->n_running) > share(other, other.n_running)) continue;
    victim = sequence.get();
  }
  if (victim != nullptr) MoveOut(*victim);
}

std::optional<Scheduler::Home> Scheduler::ChooseHome(const Sequence& sequence) const {
  std::optional<Home> best;
  for (int shard = 0; shard < shape_.n_shards; ++shard) {
    std::optional<Home> home = TryShard(sequence, shard);
    if (home.has_value() && (!best.has_value() || home->cost < best->cost)) best = std::move(home);
  }
  return best;
}

std::optional<Scheduler::Home> Scheduler::TryShard(const Sequence& sequence, int shard) const {
  if (free_slots_[static_cast<size_t>(shard)].empty()) return std::nullopt;
  Home home;
  home.shard = shard;
  const int64_t n_reusable = sequence.n_reusable();
  if (!sequence.no_cache_read) {
    home.match = cache_.Match(shard, sequence.chain, sequence.tokens, n_reusable);
    home.n_tokens_reused = ReplayBegin(home.match).value_or(home.match.n_tokens);
    home.n_blocks_local =
        ReplayBegin(home.match).has_value() ? home.match.n_blocks : home.match.n_tokens / kBlockTokens;
    if (sequence.feed != nullptr && sequence.feed->n_tokens() > home.n_tokens_reused) {
      home.uses_feed = true;
      home.n_tokens_reused = std::min(sequence.feed->n_tokens(), n_reusable);
      home.n_blocks_local = home.match.n_blocks;
    }
  }
  const BlockPool& pool = cache_.pool(shard);
  int64_t n_needed = BlocksAtAdmission(sequence) - home.n_blocks_local;
  for (int64_t i = 0; i < home.n_blocks_local; ++i) {
    // Held from now on, so no longer there to be handed out.
    if (!pool.is_held(*pool.Find(sequence.chain.keys()[static_cast<size_t>(i)]))) ++n_needed;
  }
  if (n_needed > static_cast<int64_t>(pool.n_available() - pool.n_promised())) return std::nullopt;
  home.cost = sequence.n_given - home.n_tokens_reused +
              kTokensPerRunning * static_cast<int64_t>(n_running_[static_cast<size_t>(shard)]);
  return home;
}

void Scheduler::Place(Sequence& sequence, Home home, StepPlan& plan) {
  const auto shard = static_cast<size_t>(home.shard);
  const uint16_t slot = *free_slots_[shard].begin();
  free_slots_[shard].erase(slot);
  ++n_running_[shard];
  ++sequence.flow->n_running;
  sequence.slot = {static_cast<uint16_t>(home.shard), slot};
  plan.open_slots.push_back(
      {.slot = sequence.slot,
       .sampling = sequence.sampling,
       .prior_output = {sequence.tokens.begin() + sequence.n_prompt, sequence.tokens.end()},
       .output_spec = sequence.output_spec,
       .end_token_ids = sequence.output_spec.empty() ? std::vector<uint32_t>() : sequence.end_token_ids});

  BlockPool& pool = cache_.pool(home.shard);
  for (int64_t i = 0; i < home.n_blocks_local; ++i) {
    const uint32_t block = *pool.Find(sequence.chain.keys()[static_cast<size_t>(i)]);
    pool.Hold(block);
    sequence.blocks.Append(block);
  }
  sequence.n_published = home.n_blocks_local;
  sequence.n_promised = static_cast<uint32_t>(BlocksAtAdmission(sequence) - home.n_blocks_local);
  pool.Promise(sequence.n_promised);

  if (home.match.has_mismatch) ++n_token_mismatches_;
  if (home.uses_feed) {
    sequence.is_restoring = true;
    sequence.n_blocks_found = home.n_blocks_local;
    sequence.n_past = home.n_blocks_local * kBlockTokens;
    sequence.feed->Begin(sequence.slot.shard, home.n_blocks_local);
    return;
  }
  sequence.LeaveFeed();
  sequence.feed.reset();
  std::string miss_reason = MissReason(sequence, home.match);
  ResumeFrom(sequence, std::move(home.match));
  EmitStarted(sequence, sequence.n_past, std::move(miss_reason));
}

int64_t Scheduler::BlocksAtAdmission(const Sequence& sequence) const {
  return std::min(sequence.n_blocks_max(), BlocksFor(sequence.n_given + config_.admission_headroom_tokens));
}

bool Scheduler::WantsBlock(const Sequence& sequence) {
  return (static_cast<int64_t>(sequence.blocks.size()) + 1) * kBlockTokens < sequence.n_given;
}

uint32_t Scheduler::TakeBlock(Sequence& sequence) {
  LONGSHELF_CHECK(sequence.is_restoring && WantsBlock(sequence));
  sequence.n_past = (static_cast<int64_t>(sequence.blocks.size()) + 1) * kBlockTokens;
  GrowTo(sequence, sequence.n_past);
  return sequence.blocks.blocks().back();
}

void Scheduler::EndRestore(Sequence& sequence, PrefixFeed::End end) {
  LONGSHELF_CHECK(sequence.is_restoring);
  LONGSHELF_CHECK(!sequence.publishes || sequence.n_published == std::ssize(sequence.blocks.blocks()));
  sequence.is_restoring = false;
  sequence.feed.reset();
  PrefixMatch match = cache_.Match(sequence.slot.shard, sequence.chain, sequence.tokens, sequence.n_reusable());
  // What could not be published, because others have its key, is given back below.
  const bool is_from_feed = sequence.publishes && end.n_tokens > ReplayBegin(match).value_or(match.n_tokens);
  std::string miss_reason = std::move(end.miss_reason);
  if (miss_reason == kTokenMismatch) ++n_token_mismatches_;
  if (is_from_feed) {
    auto checkpoint = std::make_shared<Checkpoint>();
    checkpoint->key = sequence.chain.KeyAt(sequence.tokens, end.n_tokens);
    checkpoint->parent = sequence.chain.ParentAt(end.n_tokens);
    checkpoint->n_tokens = end.n_tokens;
    checkpoint->state = std::move(end.state);
    checkpoint->tail = std::move(end.tail);
    match.n_tokens = end.n_tokens;
    match.checkpoint = std::move(checkpoint);
  }
  const std::optional<int64_t> replay_begin = ReplayBegin(match);
  if (match.n_tokens >= sequence.n_reusable()) {
    miss_reason.clear();
  } else if (miss_reason.empty()) {
    miss_reason = is_from_feed ? "diverged" : MissReason(sequence, match);
  }
  const bool uses_feed = is_from_feed || replay_begin.has_value();
  const int64_t n_local = uses_feed ? sequence.n_blocks_found * kBlockTokens : match.n_tokens;
  ResumeFrom(sequence, std::move(match));
  sequence.restored_from_store = is_from_feed && !replay_begin.has_value();
  EmitStarted(sequence, n_local, std::move(miss_reason));
}

// Makes it hold just the first n full blocks, all of which are in the cache.
void Scheduler::HoldExactly(Sequence& sequence, int64_t n) {
  BlockPool& pool = cache_.pool(sequence.slot.shard);
  // Others may hold what is given back here, so a promise in its place may have to wait: then it lacks room for a step.
  while (std::ssize(sequence.blocks.blocks()) > n) {
    pool.Release(sequence.blocks.blocks().back());
    sequence.blocks.DropLast();
    if (pool.n_available() == pool.n_promised()) continue;
    pool.Promise(1);
    ++sequence.n_promised;
  }
  while (std::ssize(sequence.blocks.blocks()) < n) {
    const uint32_t block = *pool.Find(sequence.chain.keys()[sequence.blocks.size()]);
    LONGSHELF_CHECK(sequence.n_promised > 0);
    pool.Unpromise(1);
    --sequence.n_promised;
    pool.Hold(block);
    sequence.blocks.Append(block);
  }
  sequence.n_published = n;
  sequence.lacks_room = sequence.n_blocks_taken() < BlocksFor(sequence.n_tokens());
}

std::optional<int64_t> Scheduler::ReplayBegin(const PrefixMatch& match) const {
  const int64_t begin = match.n_blocks * kBlockTokens - shape_.replay_tokens;
  if (shape_.replay_tokens == 0 || begin <= match.n_tokens) return std::nullopt;
  return begin;
}

void Scheduler::ResumeFrom(Sequence& sequence, PrefixMatch match) {
  sequence.last_checkpoint.reset();
  if (match.checkpoint != nullptr) sequence.last_checkpoint = match.checkpoint->key;
  if (const std::optional<int64_t> begin = ReplayBegin(match); begin.has_value()) {
    HoldExactly(sequence, match.n_blocks);
    sequence.n_past = sequence.replay_begin = *begin;
    sequence.replay_end = match.n_blocks * kBlockTokens;
    return;
  }
  HoldExactly(sequence, match.n_tokens / kBlockTokens);
  sequence.n_past = match.n_tokens;
  const int64_t n_shared = std::max(match.n_blocks * kBlockTokens, sequence.n_shared_elsewhere);
  sequence.common_prefix = n_shared > match.n_tokens ? n_shared : 0;
  if (match.checkpoint != nullptr) cache_.TouchCheckpoint(match.checkpoint->key);
  sequence.resume_from = std::move(match.checkpoint);
}

void Scheduler::EmitStarted(Sequence& sequence, int64_t n_local, std::string miss_reason) {
  if (std::exchange(sequence.started, true)) return;
  const int64_t n_cached = std::min(sequence.n_past, sequence.n_prompt);
  n_local = std::min(n_local, n_cached);
  sequence.Emit(Started{.n_prompt_tokens = static_cast<uint32_t>(sequence.n_prompt),
                        .n_cached_local = static_cast<uint32_t>(n_local),
                        .n_cached_store = static_cast<uint32_t>(n_cached - n_local),
                        .miss_reason = std::move(miss_reason)});
}

std::string Scheduler::MissReason(const Sequence& sequence, const PrefixMatch& match) const {
  const int64_t n_reusable = sequence.n_reusable();
  if (sequence.is_scoring()) return "prompt_logprobs";
  if (match.n_tokens >= n_reusable) return "";
  if (sequence.no_cache_read) return "disabled";
  if (!sequence.store_miss_reason.empty()) return sequence.store_miss_reason;
  return std::string(cache_.MissReason(sequence.chain, sequence.tokens, match, n_reusable));
}

}  // namespace longshelf::engine
