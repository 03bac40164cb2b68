#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/events.h"
#include "engine/prefix_feed.h"
#include "engine/prefix_key.h"
#include "engine/sampling.h"

namespace longshelf::engine {

// A share of the machine, not precedence: kDefault weighs 4 times kFlex, kPriority 4 times kDefault, and none starves.
enum class ServiceTier : uint8_t { kFlex, kDefault, kPriority };

// Answered by Failed at once: INVALID_ARGUMENT names the field and the limit (also for a request that could never fit
// the KV arena); RESOURCE_EXHAUSTED: the waiting queue is full; UNAVAILABLE: draining, or the engine has ended.
struct SequenceRequest {
  uint64_t id = 0;  // unique per worker process
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> committed;  // output tokens already delivered by an earlier run
  uint32_t max_tokens = 0;          // counts committed; 0: nothing is sampled
  SamplingParams sampling;
  std::vector<uint32_t> stop_token_ids;
  // grammar::OutputSpec::Serialize's: only output of that form is sampled. "": any. Whoever makes the request has
  // compiled it; a shard where it does not compile fails the sequence.
  std::string output_spec;
  // Tokens that end an output of that form, beside the end of sequence; may stand nowhere else in it.
  std::vector<uint32_t> end_token_ids;
  std::string tenant;  // whose share of the engine this is taken from; fairness is between (tenant, tier)
  ServiceTier tier = ServiceTier::kDefault;
  std::string namespace_id;
  std::string namespace_salt;
  // Keys of leading full blocks of prompt + committed, as the engine's hasher names them, when the caller has computed
  // them already; the engine computes those that are missing.
  std::vector<PrefixKey> prefix_keys;
  bool return_logits = false;
  // Tell of each prompt token but the first how likely it was after those before it, with
  // SamplingParams::n_top_logprobs alternatives. What tells it is computed, never taken from a cache.
  bool prompt_logprobs = false;
  uint32_t n_prompt_scored = 0;  // leading prompt tokens of which that was told by an earlier run; 0 is as 1
  bool no_cache_read = false;
  // Null: only the local cache is used. Taken when it leads further than that; what does not fit (sizes, positions) is
  // refused and computed, and Started says so.
  std::shared_ptr<PrefixFeed> feed;
  std::string store_miss_reason;  // why there is no feed or it is short; reported in Started
  // Others elsewhere share so many leading tokens (a multiple of the block size): worth a checkpoint. 0: not known.
  int64_t n_shared_elsewhere = 0;
  std::shared_ptr<EventSink> sink;

  // Whether prompt tokens are left of which that is to be told.
  bool wants_prompt_scores() const { return prompt_logprobs && prompt.size() > 1 && n_prompt_scored < prompt.size(); }
};

}  // namespace longshelf::engine
