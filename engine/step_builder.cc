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

// What a feed brought does not fit, as Started::miss_reason.
constexpr std::string_view kRestoreRefused = "restore_refused";

template <typename List, typename Key>
bool HasKey(const List& list, const Key& key) {
  return std::any_of(list.begin(), list.end(), [&](const auto& item) { return item.key == key; });
}

}  // namespace

void StepBuilder::Fill(StepWork& work, const StepPacer& pacer, const DraftPolicy& drafts) {
  AddImports(work);
  AddDecodeRows(work, drafts);
  const int64_t n_tokens = config_.step_token_budget;
  const double cost = pacer.CostMax(BudgetsOfStep());
  AddPrefillRows(work, {std::max({n_tokens - work.n_tokens, n_tokens / 4, int64_t{1}}),
                        std::max({cost - work.cost, cost / 4, 1.0})});
  for (const Scheduler::Leaving& leaving : scheduler_.leaving()) {
    Sequence& sequence = *leaving.sequence;
    if (!sequence.is_importing() && !sequence.is_replaying())
      AddCheckpoint(sequence, sequence.n_past, Due::kGiven, work);
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
  const auto& running = scheduler_.running();
  const auto n_restoring = std::count_if(
      running.begin(), running.end(), [](const std::unique_ptr<Sequence>& sequence) { return sequence->is_restoring; });
  const int64_t n_blocks = kImportBytesPerStep / static_cast<int64_t>(shape_.block_bytes);
  for (const auto& sequence : running) {
    if (sequence->is_restoring) {
      TakeFromFeed(*sequence, std::max<int64_t>(1, n_blocks / n_restoring), work);
    }
    if (sequence->resume_from != nullptr && !sequence->lacks_room) ImportState(*sequence, work);
  }
}

void StepBuilder::TakeFromFeed(Sequence& sequence, int64_t n_blocks_max, StepWork& work) {
  const auto refuse = [&] {
    EndRestore(sequence,
               {.n_tokens = 0, .state = nullptr, .tail = nullptr, .miss_reason = std::string(sequence.feed_refusal)},
               work);
  };
  if (sequence.feed == nullptr) return refuse();
  std::string_view& refusal = sequence.feed_refusal;
  // A key of what was taken before turned out to be in use.
  refusal = sequence.publishes ? "" : kTokenMismatch;
  size_t n_taken = 0;
  PrefixFeed::Arrived arrived;
  if (refusal.empty()) arrived = sequence.feed->Take(n_blocks_max);
  for (const KvCopyPtr& copy : arrived.blocks) {
    refusal = RefusalOfBlock(sequence, *copy);
    if (!refusal.empty()) break;
    work.plan.import_blocks.push_back({sequence.slot.shard, scheduler_.TakeBlock(sequence), copy->number()});
    ++n_taken;
  }
  if (n_taken > 0) work.restoring.push_back(&sequence);
  if (arrived.end.has_value()) refusal = RefusalOfEnd(sequence, *arrived.end);
  if (!refusal.empty()) {
    sequence.LeaveFeed();
    sequence.feed.reset();
    // What was taken is in the cache after this step; then it ends.
    if (n_taken == 0) refuse();
  } else if (arrived.end.has_value()) {
    EndRestore(sequence, *std::move(arrived.end), work);
  }
}

std::string_view StepBuilder::RefusalOfBlock(const Sequence& sequence, const KvCopy& copy) const {
  if (copy.n_bytes() != shape_.block_bytes + kStampBytes || copy.shard() != sequence.slot.shard) return kRestoreRefused;
  if (!Scheduler::WantsBlock(sequence)) return kRestoreRefused;
  const BlockName name = sequence.chain.BlockAt(sequence.tokens, std::ssize(sequence.blocks.blocks()));
  if (copy.stamp() != EncodeStamp(name.stamp)) return kTokenMismatch;
  // What has the key here is of other tokens: the block could not be published.
  const BlockPool& pool = cache_.pool(sequence.slot.shard);
  return pool.Find(name.key).has_value() && !pool.Find(name).has_value() ? kTokenMismatch : "";
}

void StepBuilder::EndRestore(Sequence& sequence, PrefixFeed::End end, StepWork& work) {
  scheduler_.EndRestore(sequence, std::move(end));
  work.has_ended_restore = true;
}

std::string_view StepBuilder::RefusalOfEnd(const Sequence& sequence, const PrefixFeed::End& end) const {
  if (end.n_tokens == 0) return "";
  const bool has_tail = end.n_tokens % kBlockTokens != 0;
  if (end.n_tokens < 0 || end.n_tokens >= sequence.n_given) return kRestoreRefused;
  if (end.n_tokens / kBlockTokens > static_cast<int64_t>(sequence.blocks.size())) return kRestoreRefused;
  if (end.state == nullptr || end.state->n_bytes() != shape_.state_export_bytes(end.n_tokens) + kStampBytes) {
    return kRestoreRefused;
  }
  if ((end.tail != nullptr) != has_tail) return kRestoreRefused;
  if (has_tail && end.tail->n_bytes() != shape_.block_bytes + kStampBytes) return kRestoreRefused;
  const EncodedStamp stamp = EncodeStamp(sequence.chain.StampAt(sequence.tokens, end.n_tokens));
  return end.state->stamp() == stamp && (!has_tail || end.tail->stamp() == stamp) ? "" : kTokenMismatch;
}

void StepBuilder::ImportState(Sequence& sequence, StepWork& work) {
  const std::shared_ptr<const Checkpoint> from = std::exchange(sequence.resume_from, nullptr);
  scheduler_.GrowTo(sequence, from->n_tokens);
  const uint16_t shard = sequence.slot.shard;
  if (from->tail != nullptr) {
    const uint32_t block = sequence.blocks[static_cast<size_t>(from->n_tokens / kBlockTokens)];
    work.plan.import_blocks.push_back({shard, block, BringTo(shard, *from->tail, work)});
  }
  work.plan.import_states.push_back({sequence.slot, from->n_tokens, BringTo(shard, *from->state, work)});
  work.imported.push_back({&sequence, from});
}

// A moved copy is dropped at the end of the step: the next to resume there may be anywhere.
uint64_t StepBuilder::BringTo(uint16_t shard, const KvCopy& copy, StepWork& work) {
  if (copy.shard() == shard) return copy.number();
  const KvCopyPtr moved = copies_.HoldNew(shard, copy.n_bytes(), copy.stamp());
  work.plan.move_copies.push_back({copy.shard(), copy.number(), shard, moved->number(), moved->n_bytes()});
  return moved->number();
}

KvCopyPtr StepBuilder::ExportBlock(const Sequence& sequence, int64_t number, int64_t n_tokens_in_block,
                                   const TokenStamp& stamp, StepWork& work) {
  const uint16_t shard = sequence.slot.shard;
  KvCopyPtr copy = copies_.HoldNew(shard, shape_.block_bytes + kStampBytes, EncodeStamp(stamp));
  const uint32_t block = sequence.blocks[static_cast<size_t>(number)];
  work.plan.export_blocks.push_back({shard, block, n_tokens_in_block, copy->number(), copy->stamp()});
  return copy;
}

void StepBuilder::AddDecodeRows(StepWork& work, const DraftPolicy& drafts) {
  std::vector<Sequence*> decoding;
  for (const auto& sequence : scheduler_.running()) {
    if (sequence->may_run() && sequence->n_pending() == 1) decoding.push_back(sequence.get());
  }
  work.chance_wanted = drafts.ChanceWanted(decoding.size());
  // Guesses take what the rows themselves leave of the token budget, each its share.
  const auto n = static_cast<int64_t>(decoding.size());
  const int64_t n_spare = n == 0 ? 0 : std::max<int64_t>(0, config_.step_token_budget / n - 1);
  for (Sequence* sequence : decoding) {
    const int64_t n_max = std::min(n_spare, DraftMax(*sequence));
    AddRow(*sequence, 1, GuessNext(*sequence, n_max, work.chance_wanted), work);
  }
}

int64_t StepBuilder::DraftMax(const Sequence& sequence) const {
  // All of them and the token after them may be kept, and the row must not reach the end of a block: what is due there
  // (a checkpoint, the block's export) is due for tokens that are certain.
  const int64_t n_left = sequence.n_tokens_max - sequence.n_tokens() - 1;
  const int64_t n_in_block = kBlockTokens - 1 - sequence.n_tokens() % kBlockTokens;
  const bool is_at_end = sequence.n_tokens() % kBlockTokens == 0;
  return is_at_end ? 0 : std::max<int64_t>(0, std::min({n_draft_max_, n_left, n_in_block}));
}

StepBuilder::Guess StepBuilder::GuessNext(Sequence& sequence, int64_t n_max, double chance_wanted) const {
  Guess guess;
  if (n_max == 0) return guess;
  const auto keep = [&](std::span<const float> confidence) {
    const DraftRecord& record = sequence.draft_records[static_cast<size_t>(guess.source)];
    const size_t n = std::min(guess.tokens.size(), static_cast<size_t>(n_max));
    guess.tokens.resize(
        DraftPolicy::LengthWorthChecking(record, n, confidence.first(confidence.empty() ? 0 : n), chance_wanted));
  };
  DraftRecord& by_lookup = sequence.draft_records[static_cast<size_t>(DraftSource::kLookup)];
  if (config_.draft_lookup && DraftPolicy::IsWorthTrying(by_lookup, chance_wanted, sequence.n_tokens())) {
    sequence.lookup.Propose(sequence.tokens, static_cast<size_t>(n_max), guess.tokens);
    keep({});
    if (!guess.tokens.empty()) return guess;
  }
  guess.source = DraftSource::kModel;
  guess.tokens = sequence.draft;
  keep(sequence.draft_confidence);
  return guess;
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
    if (share.n > 0) AddRow(*share.sequence, share.n, {}, work);
  }
}

int64_t StepBuilder::ChunkMax(const Sequence& sequence) const {
  if (sequence.is_replaying()) return sequence.replay_end - sequence.n_past;
  int64_t n_end = sequence.n_given;
  if (sequence.is_scoring()) {
    // Up to what is scored first; from there on every row is, and the last token is only needed to sample after it.
    const int64_t n_before = sequence.n_scored - 1;
    n_end = sequence.n_past < n_before ? n_before : sequence.n_prompt - (sequence.samples ? 0 : 1);
  }
  if (TakesCheckpoints() && sequence.publishes) {
    const int64_t interval = config_.checkpoint_interval_tokens;
    n_end = std::min(n_end, (sequence.n_past / interval + 1) * interval);
    for (const int64_t n : GivenCheckpoints(sequence)) {
      if (n > sequence.n_past) n_end = std::min(n_end, n);
    }
  }
  return n_end - sequence.n_past;
}

StepBuilder::Due StepBuilder::CheckpointDue(const Sequence& sequence, int64_t n_tokens) const {
  if (n_tokens < sequence.replay_end) return Due::kNo;      // not right yet
  if (n_tokens == sequence.replay_end) return Due::kGiven;  // and need not be replayed again
  const auto given = GivenCheckpoints(sequence);
  if (std::find(given.begin(), given.end(), n_tokens) != given.end()) return Due::kGiven;
  return n_tokens % config_.checkpoint_interval_tokens == 0 ? Due::kPeriodic : Due::kNo;
}

void StepBuilder::AddRow(Sequence& sequence, int64_t n_tokens, const Guess& guess, StepWork& work) {
  const int64_t n_end = sequence.n_past + n_tokens;
  const auto n_drafts = static_cast<int64_t>(guess.tokens.size());
  scheduler_.GrowTo(sequence, n_end);
  sequence.blocks.TakeChanges(sequence.slot, work.plan.set_blocks);
  const bool is_last = n_end == sequence.n_tokens();
  DraftRecord& by_model = sequence.draft_records[static_cast<size_t>(DraftSource::kModel)];
  const bool wants_draft =
      is_last && n_draft_of_model_ > 0 && DraftPolicy::IsWorthTrying(by_model, work.chance_wanted, sequence.n_tokens());
  StepPlan::Row row{.slot = sequence.slot,
                    .n_past = sequence.n_past,
                    .tokens = {sequence.tokens.begin() + sequence.n_past, sequence.tokens.begin() + n_end},
                    .sample = is_last,
                    .return_logits = is_last && sequence.return_logits,
                    .n_drafts = static_cast<uint32_t>(n_drafts),
                    .wants_draft = wants_draft,
                    .replay_begin = sequence.is_replaying() ? sequence.replay_begin : -1,
                    .targets = {}};
  if (sequence.is_scoring() && sequence.n_past + 1 == sequence.n_scored) {
    row.targets.assign(sequence.tokens.begin() + sequence.n_scored,
                       sequence.tokens.begin() + std::min(n_end + 1, sequence.n_prompt));
  }
  row.tokens.insert(row.tokens.end(), guess.tokens.begin(), guess.tokens.end());
  if (wants_draft) work.plan.n_draft = static_cast<uint32_t>(n_draft_of_model_);
  work.plan.rows.push_back(std::move(row));
  work.rows.push_back({&sequence, n_end, guess.source, static_cast<uint32_t>(n_drafts)});
  const double cost = row_cost_.Of(sequence.n_past, n_tokens + n_drafts);
  work.n_tokens += n_tokens + n_drafts;
  work.cost += cost;
  FairShare::Charge(*sequence.flow, cost);
  if (config_.export_cache_objects && !sequence.is_replaying()) AddBlockExports(sequence, n_end, work);
  const bool is_end = is_last && sequence.n_tokens() + 1 == sequence.n_tokens_max;
  const Due due = is_end ? Due::kGiven : CheckpointDue(sequence, n_end);
  if (due != Due::kNo) AddCheckpoint(sequence, n_end, due, work);
}

void StepBuilder::AddBlockExports(Sequence& sequence, int64_t n_end, StepWork& work) {
  if (!sequence.publishes) return;
  sequence.chain.Extend(sequence.tokens, n_end);
  for (int64_t number = sequence.n_past / kBlockTokens; (number + 1) * kBlockTokens <= n_end; ++number) {
    const PrefixKey& key = sequence.chain.keys()[static_cast<size_t>(number)];
    if (cache_.pool(sequence.slot.shard).Find(key).has_value() || HasKey(work.blocks, key)) continue;
    const TokenStamp stamp = sequence.chain.BlockAt(sequence.tokens, number).stamp;
    work.blocks.push_back({&sequence, number, key, ExportBlock(sequence, number, kBlockTokens, stamp, work)});
  }
}

void StepBuilder::AddCheckpoint(Sequence& sequence, int64_t n_tokens, Due due, StepWork& work) {
  if (!TakesCheckpoints() || !sequence.publishes || n_tokens == 0) return;
  sequence.chain.Extend(sequence.tokens, n_tokens);
  const PrefixKey key = sequence.chain.KeyAt(sequence.tokens, n_tokens);
  const auto continues = std::exchange(sequence.last_checkpoint, key);
  if (HasKey(work.checkpoints, key)) return;
  if (cache_.HasCheckpoint(key)) {
    cache_.TouchCheckpoint(key);
    return;
  }
  const TokenStamp stamp = sequence.chain.StampAt(sequence.tokens, n_tokens);
  const size_t n_state_bytes = shape_.state_export_bytes(n_tokens) + kStampBytes;
  StepWork::NewCheckpoint checkpoint{.sequence = &sequence,
                                     .n_tokens = n_tokens,
                                     .key = key,
                                     .state = copies_.HoldNew(sequence.slot.shard, n_state_bytes, EncodeStamp(stamp)),
                                     .tail = nullptr,
                                     .is_periodic = due == Due::kPeriodic,
                                     .continues = continues};
  work.plan.export_states.push_back({sequence.slot, n_tokens, checkpoint.state->number(), checkpoint.state->stamp()});
  if (const int64_t n_tail = n_tokens % kBlockTokens; n_tail > 0) {
    checkpoint.tail = ExportBlock(sequence, n_tokens / kBlockTokens, n_tail, stamp, work);
  }
  work.checkpoints.push_back(std::move(checkpoint));
}

}  // namespace longshelf::engine
