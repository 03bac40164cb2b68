#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "engine/sampling.h"

namespace longshelf::engine {

// First event of an admitted sequence; not sent when it is refused or cancelled while it waits. Counts are of prompt
// tokens; committed tokens that were reused are not in them.
struct Started {
  uint32_t n_prompt_tokens = 0;
  uint32_t n_cached_local = 0;
  uint32_t n_cached_store = 0;
  // Why the rest was computed. Empty: all but the last token was reused. Otherwise SequenceRequest::store_miss_reason
  // when it is given, or "restore_refused" (restored did not fit), or what the local cache knows: "cold" (never seen),
  // "diverged" (seen up to there, then another continuation), "no_checkpoint" (blocks are held further on, but no
  // state), "evicted" (was held earlier), "disabled" (no_cache_read, or no checkpoint memory), "prompt_logprobs" (what
  // tells them is computed). "token_mismatch": what was held or restored under the right key is of other tokens.
  std::string miss_reason;
};
struct PrefillProgress {
  uint32_t n_done = 0;
  uint32_t n_total = 0;
};
// Of prompt tokens `first`, `first` + 1, ... In order, each once, before the first output token; at most kTokensMax in
// one event.
struct PromptLogprobs {
  static constexpr size_t kTokensMax = 256;
  uint32_t first = 0;  // at least 1: nothing is before the first token
  std::vector<ScoredToken> tokens;
};
struct OutputToken {
  uint32_t index = 0;  // committed tokens included
  SampledToken token;
};
// kStop: the EOS token or one of stop_token_ids was sampled; that token is delivered as an OutputToken and counted.
// kLength: max_tokens or the context is full.
enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
struct Finished {
  FinishReason reason = FinishReason::kStop;
  uint32_t n_output_tokens = 0;
  // Guessed tokens, of this run: those that were what was sampled, and the others.
  uint32_t n_drafts_accepted = 0;
  uint32_t n_drafts_rejected = 0;
};
struct Failed {
  absl::Status status;
};
using SequenceEvent = std::variant<Started, PrefillProgress, PromptLogprobs, OutputToken, Finished, Failed>;

// Where a sequence's events go. Whatever is posted to the engine after Finished (kStop, kLength) can resume or export
// its KV from the local cache; its slot and blocks are free again one step later at most. Called on the engine thread:
// must not block and must not call back into the engine. Exactly one Finished or Failed ends it.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnEvent(SequenceEvent event) = 0;
};

}  // namespace longshelf::engine
