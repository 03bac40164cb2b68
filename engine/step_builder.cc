#include "step_builder.h"

#include <algorithm>
#include <array>
#include <utility>

namespace longshelf::engine {
namespace {

// Positions, beside the interval, where a checkpoint of what was given is worth its bytes.
std::array<int64_t, 4> GivenCheckpoints(const Sequence& sequence) {
  const int64_t last_boundary = (sequence.n_given - 1) / kBlockTokens * kBlockTokens;
  return {last_boundary, sequence.n_prompt, sequence.n_given, sequence.common_prefix};
}

template <typename List, typename Key>
bool HasKey(const List& list, const Key& key) {
  return std::any_of(list.begin(), list.end(), [&](const auto& item) { return item.key == key; });
}

}  // namespace

void StepBuilder::Fill(StepWork& work, const StepPacer& pacer) {
  AddImports(work);
  AddDecodeRows(work);
  const int64_t n_tokens = config_.step_token_budget;
  const double cost = pacer.CostMax(BudgetsOfStep());
  AddPrefillRows(work, {std::max({n_tokens - static_cast<int64_t>(work.rows.size()), n_tokens / 4, int64_t{1}}),
                        std::max({cost - work.cost, cost / 4, 1.0})});
  for (const Scheduler::Leaving& leaving : scheduler_.leaving()) {
    Sequence& sequence = *leaving.sequence;
    if (!sequence.is_importing()) AddCheckpoint(sequence, sequence.n_past, work);
  }
}

double StepBuilder::BudgetsOfStep() const {
  return scheduler_.running().size() + scheduler_.waiting().size() == 1 ? kAloneBudgets : 1.0;
}

bool StepBuilder::LeavesCheckpoint(Sequence& sequence) const {
  if (!TakesCheckpoints() || !sequence.publishes || sequence.n_past == 0) return false;
  sequence.chain.Extend(sequence.tokens, sequence.n_past);
  return !cache_.HasCheckpoint(sequence.chain.KeyAt(sequence.tokens, sequence.n_past));
}

void StepBuilder::AddImports(StepWork& work) {
  int64_t bytes_left = kImportBytesPerStep;
  for (const auto& sequence : scheduler_.running()) {
    if (!sequence->is_importing()) continue;
    while (!sequence->block_imports.empty() && bytes_left > 0) {
      auto& [block, bytes] = sequence->block_imports.front();
      bytes_left -= static_cast<int64_t>(bytes.size());
      work.plan.import_blocks.push_back({sequence->slot.shard, block, std::move(bytes)});
      sequence->block_imports.pop_front();
    }
    if (!sequence->block_imports.empty() || bytes_left <= 0) return;
    const std::shared_ptr<const Checkpoint> from = std::exchange(sequence->resume_from, nullptr);
    if (!from->tail.empty()) {
      const uint32_t block = sequence->blocks[static_cast<size_t>(from->n_tokens / kBlockTokens)];
      work.plan.import_blocks.push_back({sequence->slot.shard, block, from->tail});
    }
    work.plan.import_states.push_back({sequence->slot, from->n_tokens, from->state});
    bytes_left -= static_cast<int64_t>(from->tail.size() + from->state.size());
    work.imported.push_back({sequence.get(), from});
  }
}

void StepBuilder::AddDecodeRows(StepWork& work) {
  for (const auto& sequence : scheduler_.running()) {
    if (sequence->may_run() && sequence->n_pending() == 1) AddRow(*sequence, 1, work);
  }
}

void StepBuilder::AddPrefillRows(StepWork& work, Budget budget) {
  struct Share {
    Sequence* sequence;
    int64_t n_max;
    int64_t n = 0;
  };
  std::vector<Share> shares;
  for (const auto& sequence : scheduler_.running()) {
    if (sequence->may_run() && sequence->n_pending() > 1) shares.push_back({sequence.get(), ChunkMax(*sequence)});
  }
  if (shares.empty()) return;
  work.has_prefill = true;
  const auto give = [&](Share& share, int64_t n_max, double cost_max) {
    const int64_t n_past = share.sequence->n_past + share.n;
    n_max = std::min({n_max, share.n_max - share.n, budget.n_tokens});
    const int64_t n = row_cost_.TokensWithin(std::min(cost_max, budget.cost), n_past, n_max);
    share.n += n;
    budget.n_tokens -= n;
    budget.cost -= row_cost_.Of(n_past, n);
  };
  // One token at least, however dear.
  Share& first = shares.front();
  give(first, std::max<int64_t>(1, budget.n_tokens / 2),
       std::max(row_cost_.Of(first.sequence->n_past, 1), budget.cost / 2));
  std::vector<Share*> others;
  for (size_t i = 1; i < shares.size(); ++i) others.push_back(&shares[i]);
  std::stable_sort(others.begin(), others.end(), [](const Share* a, const Share* b) {
    if (a->sequence->flow != b->sequence->flow) return FairShare::IsNextBefore(*a->sequence->flow, *b->sequence->flow);
    return a->sequence->n_pending() < b->sequence->n_pending();
  });
  for (Share* share : others) give(*share, budget.n_tokens, budget.cost);
  give(first, budget.n_tokens, budget.cost);
  for (const Share& share : shares) {
    if (share.n > 0) AddRow(*share.sequence, share.n, work);
  }
}

int64_t StepBuilder::ChunkMax(const Sequence& sequence) const {
  int64_t n_end = sequence.n_given;
  if (TakesCheckpoints() && sequence.publishes) {
    const int64_t interval = config_.checkpoint_interval_tokens;
    n_end = std::min(n_end, (sequence.n_past / interval + 1) * interval);
    for (const int64_t n : GivenCheckpoints(sequence)) {
      if (n > sequence.n_past) n_end = std::min(n_end, n);
    }
  }
  return n_end - sequence.n_past;
}

bool StepBuilder::IsCheckpointDue(const Sequence& sequence, int64_t n_tokens) const {
  if (n_tokens % config_.checkpoint_interval_tokens == 0) return true;
  const auto given = GivenCheckpoints(sequence);
  return std::find(given.begin(), given.end(), n_tokens) != given.end();
}

void StepBuilder::AddRow(Sequence& sequence, int64_t n_tokens, StepWork& work) {
  const int64_t n_end = sequence.n_past + n_tokens;
  scheduler_.GrowTo(sequence, n_end);
  sequence.blocks.TakeChanges(sequence.slot, work.plan.set_blocks);
  const bool is_last = n_end == sequence.n_tokens();
  work.plan.rows.push_back({.slot = sequence.slot,
                            .n_past = sequence.n_past,
                            .tokens = {sequence.tokens.begin() + sequence.n_past, sequence.tokens.begin() + n_end},
                            .sample = is_last,
                            .return_logits = is_last && sequence.return_logits});
  work.rows.push_back({&sequence, n_end});
  const double cost = row_cost_.Of(sequence.n_past, n_tokens);
  work.cost += cost;
  FairShare::Charge(*sequence.flow, cost);
  if (config_.export_cache_objects) AddBlockExports(sequence, n_end, work);
  const bool is_end = is_last && sequence.n_tokens() + 1 == sequence.n_tokens_max;
  if (is_end || IsCheckpointDue(sequence, n_end)) AddCheckpoint(sequence, n_end, work);
}

void StepBuilder::AddBlockExports(Sequence& sequence, int64_t n_end, StepWork& work) {
  if (!sequence.publishes) return;
  sequence.chain.Extend(sequence.tokens, n_end);
  for (int64_t number = sequence.n_past / kBlockTokens; (number + 1) * kBlockTokens <= n_end; ++number) {
    const PrefixKey& key = sequence.chain.keys()[static_cast<size_t>(number)];
    if (cache_.pool(sequence.slot.shard).Find(key).has_value() || HasKey(work.blocks, key)) continue;
    work.blocks.push_back({&sequence, number, key, work.plan.export_blocks.size()});
    work.plan.export_blocks.push_back(
        {sequence.slot.shard, sequence.blocks[static_cast<size_t>(number)], kBlockTokens});
  }
}

void StepBuilder::AddCheckpoint(Sequence& sequence, int64_t n_tokens, StepWork& work) {
  if (!TakesCheckpoints() || !sequence.publishes || n_tokens == 0) return;
  sequence.chain.Extend(sequence.tokens, n_tokens);
  const PrefixKey key = sequence.chain.KeyAt(sequence.tokens, n_tokens);
  if (HasKey(work.checkpoints, key)) return;
  if (cache_.HasCheckpoint(key)) {
    cache_.TouchCheckpoint(key);
    return;
  }
  StepWork::NewCheckpoint checkpoint{&sequence, n_tokens, key, work.plan.export_states.size(), std::nullopt};
  work.plan.export_states.push_back({sequence.slot, n_tokens});
  if (const int64_t n_tail = n_tokens % kBlockTokens; n_tail > 0) {
    checkpoint.tail = work.plan.export_blocks.size();
    const uint32_t block = sequence.blocks[static_cast<size_t>(n_tokens / kBlockTokens)];
    work.plan.export_blocks.push_back({sequence.slot.shard, block, n_tail});
  }
  work.checkpoints.push_back(checkpoint);
}

}  // namespace longshelf::engine
