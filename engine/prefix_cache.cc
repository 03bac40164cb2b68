#include "prefix_cache.h"

#include <algorithm>
#include <utility>

#include "engine/model/kv_layout.h"

namespace longshelf::engine {
namespace {

constexpr size_t kEvictedRemembered = 8192;

bool IsOf(const Checkpoint& checkpoint, const TokenStamp& stamp, int64_t n_tokens) {
  const EncodedStamp encoded = EncodeStamp(stamp);
  return checkpoint.n_tokens == n_tokens && checkpoint.state->stamp() == encoded &&
         (checkpoint.tail == nullptr || checkpoint.tail->stamp() == encoded);
}

}  // namespace

PrefixCache::PrefixCache(int n_shards, uint32_t n_blocks_per_shard, uint64_t checkpoint_bytes_max)
    : checkpoint_bytes_max_(checkpoint_bytes_max), checkpoints_(checkpoint_bytes_max) {
  for (int shard = 0; shard < n_shards; ++shard) pools_.emplace_back(n_blocks_per_shard);
}

PrefixMatch PrefixCache::Match(int shard, const PrefixChain& chain, std::span<const uint32_t> tokens,
                               int64_t n_tokens_max) const {
  PrefixMatch match;
  const auto n_full = std::min<int64_t>(n_tokens_max / kBlockTokens, static_cast<int64_t>(chain.keys().size()));
  while (match.n_blocks < n_full && pool(shard).Find(chain.BlockAt(tokens, match.n_blocks)).has_value()) {
    ++match.n_blocks;
  }
  match.has_mismatch =
      match.n_blocks < n_full && pool(shard).Find(chain.keys()[static_cast<size_t>(match.n_blocks)]).has_value();
  for (int64_t n_blocks = match.n_blocks; n_blocks >= 0; --n_blocks) {
    const int64_t n_aligned = n_blocks * kBlockTokens;
    std::vector<int64_t> candidates = checkpoints_.TailLengths(chain.ParentAt(n_aligned));
    if (n_blocks > 0) candidates.push_back(0);
    for (const int64_t n_tail : candidates) {
      const int64_t n_tokens = n_aligned + n_tail;
      if (n_tokens > n_tokens_max) continue;
      auto checkpoint = checkpoints_.Find(chain.KeyAt(tokens, n_tokens));
      if (checkpoint == nullptr) continue;
      if (!IsOf(*checkpoint, chain.StampAt(tokens, n_tokens), n_tokens)) {
        match.has_mismatch = true;
        continue;
      }
      match.n_tokens = n_tokens;
      match.checkpoint = std::move(checkpoint);
      return match;
    }
  }
  return match;
}

PrefixMatch PrefixCache::MatchAnywhere(const PrefixChain& chain, std::span<const uint32_t> tokens, int64_t n_tokens_max,
                                       int& shard) const {
  PrefixMatch best;
  shard = 0;
  for (int candidate = 0; candidate < n_shards(); ++candidate) {
    PrefixMatch match = Match(candidate, chain, tokens, n_tokens_max);
    if (match.n_tokens <= best.n_tokens) continue;
    best = std::move(match);
    shard = candidate;
  }
  return best;
}

std::string_view PrefixCache::MissReason(const PrefixChain& chain, std::span<const uint32_t> tokens,
                                         const PrefixMatch& match, int64_t n_tokens_max) const {
  if (match.n_tokens >= n_tokens_max) return "";
  if (!enabled()) return "disabled";
  if (match.has_mismatch) return kTokenMismatch;
  const auto& keys = chain.keys();
  const auto next = static_cast<size_t>(match.n_blocks);
  if (next < keys.size() && evicted_.contains(keys[next])) return "evicted";
  const int64_t n_held = match.n_blocks * kBlockTokens;
  if (n_held > match.n_tokens) {
    return evicted_.contains(chain.KeyAt(tokens, n_held)) ? "evicted" : "no_checkpoint";
  }
  // The very same tokens were seen, but the last one is always computed and its block cannot be entered before it.
  const auto n_all = static_cast<int64_t>(tokens.size());
  if (n_tokens_max / kBlockTokens == match.n_blocks && HasCheckpoint(chain.KeyAt(tokens, n_all)))
    return "no_checkpoint";
  return match.n_tokens > 0 ? "diverged" : "cold";
}

uint32_t PrefixCache::Allocate(int shard) {
  std::vector<PrefixKey> evicted_blocks;
  const uint32_t block = pool(shard).Allocate(evicted_blocks);
  for (const PrefixKey& key : evicted_blocks) {
    RememberEvicted(key);
    if (IsBlockAnywhere(key)) continue;
    std::vector<PrefixKey> lost;
    checkpoints_.EraseFamily(key, lost);
    OnLost(lost);
  }
  return block;
}

void PrefixCache::InsertCheckpoint(std::shared_ptr<const Checkpoint> checkpoint) {
  const bool is_usable = checkpoint->n_tokens < kBlockTokens || IsBlockAnywhere(checkpoint->parent);
  if (!enabled() || !is_usable || checkpoints_.Contains(checkpoint->key)) return;
  const CachedCheckpoint gained{checkpoint->key, checkpoint->parent, checkpoint->n_tokens};
  std::vector<PrefixKey> evicted;
  checkpoints_.Insert(std::move(checkpoint), evicted);
  // Lost and gained between two reports: nobody needs to hear of it, and no order has to be kept.
  if (std::erase(changes_.lost, gained.key) == 0) changes_.gained.push_back(gained);
  OnLost(evicted);
}

PrefixCache::Changes PrefixCache::TakeChanges() { return std::exchange(changes_, {}); }

std::optional<PrefixCache::HeldBlock> PrefixCache::FindBlock(const PrefixKey& key) const {
  for (int shard = 0; shard < n_shards(); ++shard) {
    if (const auto block = pool(shard).Find(key); block.has_value()) return HeldBlock{shard, *block};
  }
  return std::nullopt;
}

bool PrefixCache::IsBlockAnywhere(const PrefixKey& key) const { return FindBlock(key).has_value(); }

void PrefixCache::OnLost(const std::vector<PrefixKey>& keys) {
  for (const PrefixKey& key : keys) {
    RememberEvicted(key);
    ReportLost(key);
  }
}

void PrefixCache::ReportLost(const PrefixKey& key) {
  // Gained and lost between two reports: nobody needs to hear of it.
  const size_t n_dropped =
      std::erase_if(changes_.gained, [&](const CachedCheckpoint& gained) { return gained.key == key; });
  if (n_dropped == 0) changes_.lost.push_back(key);
}

std::vector<PrefixKey> PrefixCache::DropUnused(const std::vector<PrefixKey>& keys) {
  std::vector<PrefixKey> dropped;
  checkpoints_.EraseUnused(keys, dropped);
  for (const PrefixKey& key : dropped) ReportLost(key);
  return dropped;
}

void PrefixCache::RememberEvicted(const PrefixKey& key) {
  evicted_order_.push_back(key);
  ++evicted_[key];
  if (evicted_order_.size() <= kEvictedRemembered) return;
  const auto oldest = evicted_.find(evicted_order_.front());
  if (--oldest->second == 0) evicted_.erase(oldest);
  evicted_order_.pop_front();
}

}  // namespace longshelf::engine
