#include "scheduler.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "sequence_list.h"

namespace longshelf::engine {
Scheduler::Scheduler(const EngineConfig& config, const GroupShape& shape, PrefixCache& cache)
    : config_(config),
      shape_(shape),
      cache_(cache),
      free_slots_(static_cast<size_t>(shape.n_shards)),
      n_running_(static_cast<size_t>(shape.n_shards), 0) {
  for (auto& slots : free_slots_) {
    for (uint32_t slot = 0; slot < shape.n_slots_per_shard; ++slot) slots.insert(static_cast<uint16_t>(slot));
  }
}

void Scheduler::Enqueue(std::unique_ptr<Sequence> sequence) {
  LONGSHELF_CHECK(!is_queue_full() && !Knows(sequence->id));
  by_id_.emplace(sequence->id, sequence.get());
  sequence->arrival = n_arrived_++;
  sequence->flow = &fair_share_.Join(sequence->tenant, sequence->tier);
  waiting_.push_back(std::move(sequence));
  nothing_changed_ = false;
}

Sequence* Scheduler::Find(uint64_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

void Scheduler::MakeRoom() {
  someone_lacks_room_ = false;
  std::vector<int64_t> n_coming(static_cast<size_t>(shape_.n_shards), 0);  // blocks of those that leave in this step
  for (const Leaving& leaving : leaving_) n_coming[leaving.sequence->slot.shard] += leaving.sequence->n_blocks_taken();
  for (size_t i = 0; i < running_.size();) {
    Sequence& sequence = *running_[i];
    PromiseOrPreempt(sequence, n_coming[sequence.slot.shard]);
    // Who was moved out may have stood anywhere.
    i = static_cast<size_t>(std::distance(running_.begin(), FirstAfter(running_, sequence.arrival)));
  }
}

void Scheduler::PromiseOrPreempt(Sequence& sequence, int64_t& n_coming) {
  BlockPool& pool = cache_.pool(sequence.slot.shard);
  const auto n_lacking = std::max<int64_t>(0, BlocksFor(sequence.n_tokens()) - sequence.n_blocks_taken());
  const int64_t n_free = static_cast<int64_t>(pool.n_available()) - static_cast<int64_t>(pool.n_promised());
  sequence.lacks_room = n_lacking > n_free;
  if (!sequence.lacks_room) {
    pool.Promise(static_cast<uint32_t>(n_lacking));
    sequence.n_promised += static_cast<uint32_t>(n_lacking);
    return;
  }
  someone_lacks_room_ = true;
  for (bool is_running = true; is_running && n_free + n_coming < n_lacking;) {
    Sequence& victim = LatestOnShard(sequence.slot.shard);
    n_coming += victim.n_blocks_taken();
    is_running = &victim != &sequence;
    MoveOut(victim);
  }
  n_coming -= std::min(n_coming, n_lacking);  // spoken for
}

Sequence& Scheduler::LatestOnShard(int shard) const {
  Sequence* latest = nullptr;
  for (const auto& sequence : running_) {
    if (sequence->slot.shard != shard) continue;
    // What is being imported comes over a network; the earliest never goes.
    if (latest == nullptr || IsEarliestOnShard(*latest) || !sequence->is_importing() || latest->is_importing()) {
      latest = sequence.get();
    }
  }
  LONGSHELF_CHECK(latest != nullptr);
  return *latest;
}

bool Scheduler::IsEarliestOnShard(const Sequence& sequence) const {
  const auto first = std::find_if(running_.begin(), running_.end(), [&](const std::unique_ptr<Sequence>& other) {
    return other->slot.shard == sequence.slot.shard;
  });
  return first != running_.end() && first->get() == &sequence;
}

void Scheduler::MoveOut(Sequence& sequence) {
  ++n_moved_out_;
  sequence.LeaveFeed();
  leaving_.push_back({TakeFrom(running_, sequence), true});
}

void Scheduler::Retire(uint64_t id) {
  Sequence* sequence = Find(id);
  LONGSHELF_CHECK(sequence != nullptr);
  by_id_.erase(id);
  leaving_.push_back({TakeFrom(running_, *sequence), false});
}

void Scheduler::ReleaseLeaving() {
  for (Leaving& leaving : std::exchange(leaving_, {})) {
    GiveBack(*leaving.sequence);
    if (leaving.comes_back) {
      WaitAgain(std::move(leaving.sequence));
    } else {
      fair_share_.Leave(*leaving.sequence->flow);
    }
  }
}

// A preempted sequence waits at its old place, with all it has as what is given.
void Scheduler::WaitAgain(std::unique_ptr<Sequence> sequence) {
  sequence->n_given = sequence->n_tokens();
  sequence->chain.Extend(sequence->tokens, sequence->n_given);
  sequence->n_past = 0;
  sequence->n_published = 0;
  sequence->publishes = true;
  sequence->common_prefix = 0;
  sequence->is_restoring = false;
  sequence->replay_begin = sequence->replay_end = 0;
  sequence->resume_from.reset();
  sequence->restored_from_store = false;
  sequence->lacks_room = false;
  InsertByArrival(waiting_, std::move(sequence));
}

void Scheduler::GrowTo(Sequence& sequence, int64_t n_tokens) {
  while (static_cast<int64_t>(sequence.blocks.size()) < BlocksFor(n_tokens)) {
    LONGSHELF_CHECK(sequence.n_promised > 0);
    --sequence.n_promised;
    sequence.blocks.Append(cache_.Allocate(sequence.slot.shard));
  }
}

void Scheduler::Publish(Sequence& sequence, std::vector<int64_t>* fresh) {
  if (!sequence.publishes) return;
  sequence.chain.Extend(sequence.tokens, sequence.n_past);
  BlockPool& pool = cache_.pool(sequence.slot.shard);
  for (; (sequence.n_published + 1) * kBlockTokens <= sequence.n_past; ++sequence.n_published) {
    const auto i = static_cast<size_t>(sequence.n_published);
    const BlockName name = sequence.chain.BlockAt(sequence.tokens, sequence.n_published);
    const bool is_new = !pool.Find(name.key).has_value();
    const bool is_of_others = !is_new && !pool.Find(name).has_value();
    n_token_mismatches_ += is_of_others ? 1 : 0;
    if (is_of_others || (!is_new && sequence.no_cache_read)) {
      // It must hold what it publishes after, and can or may not take the block that has the key.
      sequence.publishes = false;
      return;
    }
    const auto parent = i == 0 ? std::nullopt : std::optional(sequence.blocks[i - 1]);
    sequence.blocks.Replace(i, pool.Publish(sequence.blocks[i], name, parent));
    if (is_new && fresh != nullptr) fresh->push_back(sequence.n_published);
  }
}

std::unique_ptr<Sequence> Scheduler::Remove(uint64_t id) {
  Sequence* sequence = Find(id);
  LONGSHELF_CHECK(sequence != nullptr);
  by_id_.erase(id);
  nothing_changed_ = false;
  std::unique_ptr<Sequence> out = TakeFrom(waiting_, *sequence);
  if (out == nullptr) {
    out = TakeFrom(running_, *sequence);
    if (out == nullptr) out = TakeFromLeaving(*sequence);
    LONGSHELF_CHECK(out != nullptr);
    GiveBack(*out);
  }
  fair_share_.Leave(*out->flow);
  return out;
}

std::unique_ptr<Sequence> Scheduler::TakeFromLeaving(const Sequence& sequence) {
  const auto it = std::find_if(leaving_.begin(), leaving_.end(),
                               [&](const Leaving& leaving) { return leaving.sequence.get() == &sequence; });
  if (it == leaving_.end()) return nullptr;
  std::unique_ptr<Sequence> out = std::move(it->sequence);
  leaving_.erase(it);
  return out;
}

void Scheduler::GiveBack(Sequence& sequence) {
  const auto shard = static_cast<size_t>(sequence.slot.shard);
  BlockPool& pool = cache_.pool(sequence.slot.shard);
  pool.Unpromise(std::exchange(sequence.n_promised, 0));
  // Deepest first: a parent is always the more recent one.
  for (size_t i = sequence.blocks.size(); i > 0; --i) pool.Release(sequence.blocks[i - 1]);
  sequence.blocks.Clear();
  free_slots_[shard].insert(sequence.slot.slot);
  --n_running_[shard];
  --sequence.flow->n_running;
  nothing_changed_ = false;
}

std::vector<uint64_t> Scheduler::AllIds() const {
  std::vector<uint64_t> ids;
  for (const auto& sequence : running_) ids.push_back(sequence->id);
  for (const auto& sequence : waiting_) ids.push_back(sequence->id);
  for (const Leaving& leaving : leaving_) {
    if (leaving.comes_back) ids.push_back(leaving.sequence->id);
  }
  return ids;
}

Load Scheduler::CurrentLoad() const {
  Load load;
  load.n_running = static_cast<uint32_t>(running_.size() + leaving_.size());
  load.n_preempted = n_moved_out_;
  load.n_token_mismatches = n_token_mismatches_;
  load.n_waiting = static_cast<uint32_t>(waiting_.size());
  load.n_prefilling = load.n_waiting;
  for (const auto& sequence : waiting_) load.n_tokens_queued += static_cast<uint64_t>(sequence->n_given);
  for (const auto& sequence : running_) {
    if (sequence->n_past < sequence->n_given) {
      load.n_tokens_queued += static_cast<uint64_t>(sequence->n_given - sequence->n_past);
      ++load.n_prefilling;
    }
  }
  for (int shard = 0; shard < shape_.n_shards; ++shard) {
    load.n_blocks_total += cache_.pool(shard).n_total();
    load.n_blocks_free += cache_.pool(shard).n_available();
    load.n_blocks_promised += cache_.pool(shard).n_promised();
  }
  return load;
}

void Scheduler::CheckInvariants() const {
  std::vector<uint32_t> n_promised(static_cast<size_t>(shape_.n_shards), 0);
  std::vector<uint32_t> n_home(static_cast<size_t>(shape_.n_shards), 0);
  size_t n_coming_back = 0;
  const auto count = [&](const Sequence& sequence) {
    n_promised[sequence.slot.shard] += sequence.n_promised;
    ++n_home[sequence.slot.shard];
    LONGSHELF_CHECK(sequence.n_blocks_taken() <= sequence.n_blocks_max());
    for (const uint32_t block : sequence.blocks.blocks()) {
      LONGSHELF_CHECK(cache_.pool(sequence.slot.shard).is_held(block));
    }
  };
  for (const auto& sequence : running_) count(*sequence);
  for (const Leaving& leaving : leaving_) {
    count(*leaving.sequence);
    n_coming_back += leaving.comes_back ? 1 : 0;
  }
  LONGSHELF_CHECK(by_id_.size() == waiting_.size() + running_.size() + n_coming_back);
  for (size_t shard = 0; shard < n_home.size(); ++shard) {
    LONGSHELF_CHECK(n_home[shard] == n_running_[shard]);
    LONGSHELF_CHECK(n_home[shard] + free_slots_[shard].size() == shape_.n_slots_per_shard);
    LONGSHELF_CHECK(cache_.pool(static_cast<int>(shard)).n_promised() == n_promised[shard]);
    cache_.pool(static_cast<int>(shard)).CheckInvariants();
  }
}

}  // namespace longshelf::engine
