#include "step_committer.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {

CacheChain ChainOf(const Sequence& sequence) {
  return {sequence.namespace_id, sequence.chain.root(), sequence.chain.keys()};
}

std::vector<EndedSequence> StepCommitter::Commit(StepWork& work, StepResult& result) {
  std::vector<EndedSequence> ended;
  DropFailed(work, result);
  EmitTokens(work, result, ended);
  CommitCache(work);
  return ended;
}

// Takes everything of failed sequences out of the step, so that nothing of theirs reaches the cache.
void StepCommitter::DropFailed(StepWork& work, StepResult& result) {
  for (const SlotFailure& failure : result.failures) {
    const auto& running = scheduler_.running();
    const auto it = std::find_if(running.begin(), running.end(), [&](const std::unique_ptr<Sequence>& sequence) {
      return sequence->slot == failure.slot;
    });
    if (it == running.end()) continue;  // its second failure in one step
    const Sequence* failed = it->get();
    const auto is_its = [&](const auto& item) { return item.sequence == failed; };
    for (size_t i = work.rows.size(); i > 0; --i) {  // rows stay paired with results
      if (!is_its(work.rows[i - 1])) continue;
      work.rows.erase(work.rows.begin() + static_cast<std::ptrdiff_t>(i - 1));
      result.rows.erase(result.rows.begin() + static_cast<std::ptrdiff_t>(i - 1));
    }
    std::erase_if(work.checkpoints, is_its);
    std::erase_if(work.blocks, is_its);
    std::erase_if(work.imported, is_its);
    std::erase(work.restoring, failed);
    scheduler_.Remove(failed->id)->Emit(Failed{failure.status});
  }
}

bool StepCommitter::IsStop(const Sequence& sequence, uint32_t token) const {
  return token == config_.eos_token_id || std::find(sequence.stop_token_ids.begin(), sequence.stop_token_ids.end(),
                                                    token) != sequence.stop_token_ids.end();
}

void StepCommitter::EmitTokens(StepWork& work, StepResult& result, std::vector<EndedSequence>& ended) {
  for (size_t i = 0; i < work.rows.size(); ++i) {
    Sequence& sequence = *work.rows[i].sequence;
    sequence.n_past = work.rows[i].n_end;
    EmitScores(sequence, std::move(result.rows[i].scored));
    if (sequence.n_past < sequence.n_tokens()) {
      // After a preemption the client is reading output already.
      if (!sequence.has_sampled) {
        sequence.Emit(PrefillProgress{static_cast<uint32_t>(sequence.n_past), static_cast<uint32_t>(sequence.n_given)});
      }
      if (!sequence.samples && !sequence.is_scoring()) ended.push_back({sequence.id, FinishReason::kLength});
      continue;
    }
    sequence.has_sampled = true;
    RowResult& row = result.rows[i];
    const uint32_t n_drafts = work.rows[i].n_drafts;
    const auto n_accepted = static_cast<uint32_t>(row.sampled.size() - 1);
    const auto source = work.rows[i].source;
    drafts_.ObserveDrafts(source, sequence.draft_records[static_cast<size_t>(source)], n_drafts, n_accepted,
                          work.chance_wanted, sequence.n_tokens());
    sequence.n_drafts_accepted += n_accepted;
    sequence.n_drafts_rejected += n_drafts - n_accepted;
    sequence.draft = std::move(row.draft);
    sequence.draft_confidence = std::move(row.draft_confidence);
    const auto reason = Append(sequence, std::move(row.sampled));
    if (reason.has_value()) ended.push_back({sequence.id, *reason});
  }
}

void StepCommitter::EmitScores(Sequence& sequence, std::vector<ScoredToken> scored) {
  for (size_t i = 0; i < scored.size(); i += PromptLogprobs::kTokensMax) {
    const auto from = scored.begin() + static_cast<std::ptrdiff_t>(i);
    const size_t n = std::min(PromptLogprobs::kTokensMax, scored.size() - i);
    PromptLogprobs piece{static_cast<uint32_t>(sequence.n_scored), {}};
    piece.tokens.assign(std::make_move_iterator(from), std::make_move_iterator(from + static_cast<std::ptrdiff_t>(n)));
    sequence.n_scored += static_cast<int64_t>(n);
    sequence.Emit(std::move(piece));
  }
}

std::optional<FinishReason> StepCommitter::Append(Sequence& sequence, std::vector<SampledToken> sampled) {
  for (SampledToken& next : sampled) {
    const uint32_t token = next.token;
    const uint32_t index = sequence.n_output();
    sequence.n_past = sequence.n_tokens();  // a guess that held has been processed
    sequence.tokens.push_back(token);
    sequence.Emit(OutputToken{index, std::move(next)});
    if (IsStop(sequence, token)) return FinishReason::kStop;
    if (sequence.n_tokens() >= sequence.n_tokens_max) return FinishReason::kLength;
  }
  return std::nullopt;
}

void StepCommitter::CommitCache(StepWork& work) {
  std::map<const Sequence*, std::vector<int64_t>> fresh;  // looked up only
  for (const auto& row : work.rows) scheduler_.Publish(*row.sequence, &fresh[row.sequence]);
  for (Sequence* sequence : work.restoring) scheduler_.Publish(*sequence, nullptr);
  for (auto& imported : work.imported) {
    Sequence& sequence = *imported.sequence;
    if (!std::exchange(sequence.restored_from_store, false)) continue;
    scheduler_.Publish(sequence, nullptr);  // also when its row is not in this step
    if (sequence.publishes) cache_.InsertCheckpoint(std::move(imported.checkpoint));
  }
  // A block that a twin of the same step made first is not new.
  for (auto& block : work.blocks) {
    const Sequence& maker = *block.sequence;
    const auto& numbers = fresh[block.sequence];
    if (std::find(numbers.begin(), numbers.end(), block.number) == numbers.end()) continue;
    ParkedObject object{.kind = ParkedObject::Kind::kBlock,
                        .key = block.key,
                        .parent = maker.chain.ParentAt(block.number * kBlockTokens),
                        .n_tokens = (block.number + 1) * kBlockTokens,
                        .copy = std::move(block.copy)};
    std::vector<ParkedObject> objects;
    objects.push_back(std::move(object));
    observer_.OnCacheObjects(ChainOf(maker), std::move(objects));
  }
  CommitCheckpoints(work);
}

void StepCommitter::CommitCheckpoints(StepWork& work) {
  for (auto& made : work.checkpoints) {
    if (!made.sequence->publishes) continue;
    auto checkpoint = std::make_shared<Checkpoint>();
    checkpoint->key = made.key;
    checkpoint->parent = made.sequence->chain.ParentAt(made.n_tokens);
    checkpoint->n_tokens = made.n_tokens;
    checkpoint->state = std::move(made.state);
    checkpoint->tail = std::move(made.tail);
    if (made.is_periodic) made.sequence->periodic_checkpoints.push_back(made.key);
    if (config_.export_cache_objects) {
      std::vector<ParkedObject> objects;
      if (checkpoint->tail != nullptr) {
        objects.push_back({ParkedObject::Kind::kTail, made.key, checkpoint->parent, made.n_tokens, checkpoint->tail});
      }
      objects.push_back(
          {ParkedObject::Kind::kCheckpoint, made.key, checkpoint->parent, made.n_tokens, checkpoint->state});
      CacheChain chain = ChainOf(*made.sequence);
      chain.continues = made.continues;
      observer_.OnCacheObjects(chain, std::move(objects));
    }
    cache_.InsertCheckpoint(std::move(checkpoint));
  }
}

}  // namespace longshelf::engine
