#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache_objects.h"
#include "engine/prefix_key.h"

namespace longshelf::engine {

// Guessed tokens since the start, by what became of them.
struct DraftCounts {
  uint64_t n_accepted = 0;
  uint64_t n_rejected = 0;
};

// What computing a prompt takes, measured. All zero: nothing was computed yet.
struct PrefillSpeed {
  double seconds_per_token = 0.0;  // of a sequence's first tokens
  double per_position = 0.0;       // what a token costs more for each position before it, relative to that

  absl::Duration TimeOf(int64_t n_past, int64_t n_tokens) const {
    const auto n = static_cast<double>(n_tokens);
    return absl::Seconds(seconds_per_token * n * (1.0 + per_position * (static_cast<double>(n_past) + n / 2)));
  }
};

struct Load {
  uint32_t n_running = 0;
  uint32_t n_waiting = 0;
  uint64_t n_tokens_queued = 0;
  uint32_t n_prefilling = 0;  // sequences that n_tokens_queued belongs to
  uint32_t n_blocks_total = 0;
  uint32_t n_blocks_free = 0;
  uint32_t n_blocks_promised = 0;  // of the free ones
  uint64_t n_steps = 0;
  uint64_t n_preempted = 0;  // sequences moved out and back since the start
  // KV that had the right key and was of other tokens, here or in a feed, since the start.
  uint64_t n_token_mismatches = 0;
  DraftCounts drafts_of_lookup;
  DraftCounts drafts_of_model;
  PrefillSpeed prefill;
  bool draining = false;
};

// The sequence that made cache objects. Valid during the call.
struct CacheChain {
  std::string_view namespace_id;
  const PrefixKey& root;
  const std::vector<PrefixKey>& blocks;  // keys of all its full blocks so far
  // Of a checkpoint: the one before it that this sequence left or went on from.
  std::optional<PrefixKey> continues = std::nullopt;
};

// What the outside learns of the engine, on the engine thread; must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnLoad(const Load& load) = 0;
  virtual void OnCheckpointsChanged(std::vector<CachedCheckpoint> gained, std::vector<PrefixKey> lost) = 0;
  // New cache objects, behind the step that made them: for the KV store. Dropping them is allowed. `chain` is where
  // they belong.
  virtual void OnCacheObjects(const CacheChain& chain, std::vector<ParkedObject> objects) = 0;
  // Checkpoints that a finished turn left on its way and that nobody has resumed from: not worth keeping.
  virtual void OnCheckpointsDropped(const CacheChain& chain, std::vector<PrefixKey> keys) = 0;
};

}  // namespace longshelf::engine
