#include "scheduler.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "request_check.h"

namespace longshelf::engine {
namespace {

// Puts `sequence` where its arrival belongs.
template <typename List>
void InsertByArrival(List& list, std::unique_ptr<Sequence> sequence) {
  const auto later = [](uint64_t arrival, const std::unique_ptr<Sequence>& other) { return arrival < other->arrival; };
  const auto at = std::upper_bound(list.begin(), list.end(), sequence->arrival, later);
  list.insert(at, std::move(sequence));
}

template <typename List>
std::unique_ptr<Sequence> TakeFrom(List& list, const Sequence& sequence) {
  const auto is_it = [&](const std::unique_ptr<Sequence>& other) { return other.get() == &sequence; };
  const auto it = std::find_if(list.begin(), list.end(), is_it);
  if (it == list.end()) return nullptr;
  std::unique_ptr<Sequence> out = std::move(*it);
  list.erase(it);
  return out;
}

}  // namespace

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
  waiting_.push_back(std::move(sequence));
  nothing_changed_ = false;
}

Sequence* Scheduler::Find(uint64_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

void Scheduler::Admit(StepPlan& plan) {
  if (nothing_changed_) return;
  nothing_changed_ = true;
  size_t n_blocked = 0;  // at the front of the queue
  while (n_blocked < waiting_.size() && running_.size() < config_.n_sequences_max) {
    Sequence& sequence = *waiting_[n_blocked];
    std::optional<Home> home = ChooseHome(sequence);
    if (!home.has_value()) {
      if (n_blocked >= kBypassesMax || sequence.n_bypassed >= kBypassesMax) return;
      ++n_blocked;
      continue;
    }
    for (size_t i = 0; i < n_blocked; ++i) ++waiting_[i]->n_bypassed;
    InsertByArrival(running_, TakeFrom(waiting_, sequence));
    Place(sequence, *std::move(home), plan);
  }
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
  const int64_t n_reusable = sequence.n_given - 1;  // the last token is always computed
  if (!sequence.no_cache_read) {
    home.match = cache_.Match(shard, sequence.chain, sequence.tokens, n_reusable);
    home.n_tokens_reused = home.match.n_tokens;
    const RestoredPrefix* restored = sequence.restored.get();
    if (restored != nullptr && restored->n_tokens > home.match.n_tokens &&
        restored->first_block <= home.match.n_blocks) {
      home.uses_restored = true;
      home.n_tokens_reused = restored->n_tokens;
    }
    home.n_blocks_local = std::min(home.match.n_blocks, home.n_tokens_reused / kBlockTokens);
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
  sequence.slot = {static_cast<uint16_t>(home.shard), slot};
  plan.open_slots.push_back(
      {sequence.slot, sequence.sampling, {sequence.tokens.begin() + sequence.n_prompt, sequence.tokens.end()}});

  BlockPool& pool = cache_.pool(home.shard);
  for (int64_t i = 0; i < home.n_blocks_local; ++i) {
    const uint32_t block = *pool.Find(sequence.chain.keys()[static_cast<size_t>(i)]);
    pool.Hold(block);
    sequence.blocks.Append(block);
  }
  sequence.n_published = home.n_blocks_local;
  sequence.n_promised = static_cast<uint32_t>(BlocksAtAdmission(sequence) - home.n_blocks_local);
  pool.Promise(sequence.n_promised);

  sequence.n_past = home.n_tokens_reused;
  if (home.match.n_blocks * kBlockTokens > home.n_tokens_reused) {
    sequence.common_prefix = home.match.n_blocks * kBlockTokens;
  }
  Started started{.n_prompt_tokens = static_cast<uint32_t>(sequence.n_prompt),
                  .n_cached_local = 0,
                  .n_cached_store = 0,
                  .miss_reason = MissReason(sequence, home)};
  const int64_t n_cached = std::min(home.n_tokens_reused, sequence.n_prompt);
  const int64_t n_local = home.uses_restored ? std::min(home.n_blocks_local * kBlockTokens, n_cached) : n_cached;
  started.n_cached_local = static_cast<uint32_t>(n_local);
  started.n_cached_store = static_cast<uint32_t>(n_cached - n_local);
  if (home.uses_restored) {
    TakeRestored(sequence, home);
  } else if (home.match.checkpoint != nullptr) {
    cache_.TouchCheckpoint(home.match.checkpoint->key);
    sequence.resume_from = std::move(home.match.checkpoint);
  }
  GrowTo(sequence, sequence.n_past);
  if (home.uses_restored) {
    for (size_t i = 0; i < sequence.block_imports.size(); ++i) {
      sequence.block_imports[i].first = sequence.blocks[static_cast<size_t>(home.n_blocks_local) + i];
    }
  }
  sequence.restored.reset();
  if (!std::exchange(sequence.started, true)) sequence.Emit(std::move(started));
}

int64_t Scheduler::BlocksAtAdmission(const Sequence& sequence) const {
  return std::min(sequence.n_blocks_max(), BlocksFor(sequence.n_given + config_.admission_headroom_tokens));
}

void Scheduler::MakeRoom() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    const int shard = sequence.slot.shard;
    BlockPool& pool = cache_.pool(shard);
    const int64_t n_has = static_cast<int64_t>(sequence.blocks.size()) + sequence.n_promised;
    const auto n_lacking = static_cast<uint32_t>(std::max<int64_t>(0, BlocksFor(sequence.n_tokens()) - n_has));
    bool is_running = true;
    while (is_running && pool.n_available() - pool.n_promised() < n_lacking) {
      const auto last = std::find_if(running_.rbegin(), running_.rend(), [&](const std::unique_ptr<Sequence>& other) {
        return other->slot.shard == shard;
      });
      is_running = last->get() != &sequence;
      Preempt(**last);  // never before place i
    }
    if (!is_running) {
      --i;
      continue;
    }
    pool.Promise(n_lacking);
    sequence.n_promised += n_lacking;
  }
}

void Scheduler::Preempt(Sequence& sequence) {
  std::unique_ptr<Sequence> stopped = StopRunning(sequence);
  stopped->n_given = stopped->n_tokens();
  stopped->chain.Extend(stopped->tokens, stopped->n_given);
  stopped->n_past = 0;
  stopped->n_published = 0;
  stopped->publishes = true;
  stopped->common_prefix = 0;
  stopped->block_imports.clear();
  stopped->resume_from.reset();
  stopped->restored_from_store = false;
  InsertByArrival(waiting_, std::move(stopped));
}

// Turns RestoredPrefix into imports; their blocks are not allocated yet.
void Scheduler::TakeRestored(Sequence& sequence, const Home& home) {
  RestoredPrefix& restored = *sequence.restored;
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->key = sequence.chain.KeyAt(sequence.tokens, restored.n_tokens);
  checkpoint->parent = sequence.chain.ParentAt(restored.n_tokens);
  checkpoint->n_tokens = restored.n_tokens;
  checkpoint->state = std::move(restored.state);
  if (restored.n_tokens % kBlockTokens != 0) {
    checkpoint->tail = std::move(restored.blocks.back());
    restored.blocks.pop_back();
  }
  for (auto i = static_cast<size_t>(home.n_blocks_local - restored.first_block); i < restored.blocks.size(); ++i) {
    sequence.block_imports.emplace_back(0, std::move(restored.blocks[i]));
  }
  sequence.resume_from = std::move(checkpoint);
  sequence.restored_from_store = true;
}

std::string Scheduler::MissReason(const Sequence& sequence, const Home& home) const {
  const int64_t n_reusable = sequence.n_given - 1;
  if (home.n_tokens_reused >= n_reusable) return "";
  if (sequence.no_cache_read) return "disabled";
  if (!sequence.store_miss_reason.empty()) return sequence.store_miss_reason;
  if (sequence.restored != nullptr && !home.uses_restored && sequence.restored->n_tokens > home.match.n_tokens) {
    return "evicted";  // local blocks that the restored part builds on
  }
  if (home.uses_restored) return "diverged";
  return std::string(cache_.MissReason(sequence.chain, sequence.tokens, home.match, n_reusable));
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
    const PrefixKey& key = sequence.chain.keys()[i];
    const bool is_new = !pool.Find(key).has_value();
    if (!is_new && sequence.no_cache_read) {
      // It may not read the cache, so it cannot take the block that is there, and must hold what it publishes after.
      sequence.publishes = false;
      return;
    }
    const auto parent = i == 0 ? std::nullopt : std::optional(sequence.chain.keys()[i - 1]);
    sequence.blocks.Replace(i, pool.Publish(sequence.blocks[i], key, parent));
    if (is_new && fresh != nullptr) fresh->push_back(sequence.n_published);
  }
}

std::unique_ptr<Sequence> Scheduler::Remove(uint64_t id) {
  Sequence* sequence = Find(id);
  LONGSHELF_CHECK(sequence != nullptr);
  by_id_.erase(id);
  nothing_changed_ = false;
  if (std::unique_ptr<Sequence> waiting = TakeFrom(waiting_, *sequence); waiting != nullptr) return waiting;
  return StopRunning(*sequence);
}

std::unique_ptr<Sequence> Scheduler::StopRunning(Sequence& sequence) {
  std::unique_ptr<Sequence> out = TakeFrom(running_, sequence);
  LONGSHELF_CHECK(out != nullptr);
  const auto shard = static_cast<size_t>(out->slot.shard);
  BlockPool& pool = cache_.pool(out->slot.shard);
  pool.Unpromise(std::exchange(out->n_promised, 0));
  // Deepest first: a parent is always the more recent one.
  for (size_t i = out->blocks.size(); i > 0; --i) pool.Release(out->blocks[i - 1]);
  out->blocks.Clear();
  free_slots_[shard].insert(out->slot.slot);
  --n_running_[shard];
  nothing_changed_ = false;
  return out;
}

Load Scheduler::CurrentLoad() const {
  Load load;
  load.n_running = static_cast<uint32_t>(running_.size());
  load.n_waiting = static_cast<uint32_t>(waiting_.size());
  for (const auto& sequence : waiting_) load.n_tokens_queued += static_cast<uint64_t>(sequence->n_given);
  for (const auto& sequence : running_) {
    if (sequence->n_past < sequence->n_given) {
      load.n_tokens_queued += static_cast<uint64_t>(sequence->n_given - sequence->n_past);
    }
  }
  for (int shard = 0; shard < shape_.n_shards; ++shard) {
    load.n_blocks_total += cache_.pool(shard).n_total();
    load.n_blocks_free += cache_.pool(shard).n_available();
  }
  return load;
}

void Scheduler::CheckInvariants() const {
  LONGSHELF_CHECK(by_id_.size() == waiting_.size() + running_.size());
  std::vector<uint32_t> n_promised(static_cast<size_t>(shape_.n_shards), 0);
  std::vector<uint32_t> n_home(static_cast<size_t>(shape_.n_shards), 0);
  for (const auto& sequence : running_) {
    n_promised[sequence->slot.shard] += sequence->n_promised;
    ++n_home[sequence->slot.shard];
    LONGSHELF_CHECK(static_cast<int64_t>(sequence->blocks.size() + sequence->n_promised) <= sequence->n_blocks_max());
    for (const uint32_t block : sequence->blocks.blocks())
      LONGSHELF_CHECK(cache_.pool(sequence->slot.shard).is_held(block));
  }
  for (size_t shard = 0; shard < n_home.size(); ++shard) {
    LONGSHELF_CHECK(n_home[shard] == n_running_[shard]);
    LONGSHELF_CHECK(n_home[shard] + free_slots_[shard].size() == shape_.n_slots_per_shard);
    LONGSHELF_CHECK(cache_.pool(static_cast<int>(shard)).n_promised() == n_promised[shard]);
    cache_.pool(static_cast<int>(shard)).CheckInvariants();
  }
}

}  // namespace longshelf::engine
