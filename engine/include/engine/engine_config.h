#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace longshelf::engine {

struct EngineConfig {
  int64_t n_context_max = 0;        // tokens of prompt plus output
  int64_t step_token_budget = 512;  // decode rows first, then prefill chunks up to this
  // How long a step may last, so that nobody waits for somebody else's prompt: prefill chunks are cut to it. A sequence
  // that has the engine to itself may take four of it. 0: only step_token_budget bounds a step.
  absl::Duration step_time_budget = absl::ZeroDuration();
  // Guess tokens and check several in one step. The tokens are the same without.
  bool draft_lookup = true;       // from what the text repeats
  bool draft_model = true;        // by the checkpoint's draft module, when the group runs one
  uint32_t n_sequences_max = 64;  // running
  uint32_t n_waiting_max = 1024;  // queued
  // Output tokens whose KV blocks a sequence is promised on admission, beyond what was given. Smaller: more sequences
  // at once, and more of them preempted (computed again later, with the same bits) when outputs turn out long.
  int64_t admission_headroom_tokens = 1024;
  int64_t checkpoint_interval_tokens = 2048;  // of a long prompt or answer; multiple of the block size
  uint64_t checkpoint_memory_bytes = 0;       // budget of local checkpoints and tails (LRU); 0 = no prefix cache
  uint32_t eos_token_id = 1;
  uint32_t vocab_size = 0;
  bool export_cache_objects = false;  // feed OnCacheObjects
  bool self_check = false;            // abort when the books do not balance after a step; for tests, slow

  // Rows of a step at most, guessed ones included: decode rows come first, and prefill gets a quarter even so.
  int64_t n_rows_max() const {
    return std::max<int64_t>(step_token_budget, n_sequences_max) + step_token_budget / 4 + 1;
  }
};

}  // namespace longshelf::engine
