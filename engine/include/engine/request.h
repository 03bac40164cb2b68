#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/events.h"
#include "engine/prefix_key.h"
#include "engine/sampling.h"

namespace longshelf::engine {

// KV that came from elsewhere, verified by whoever fetched it. Blocks [first_block, first_block + blocks.size()) of
// prompt + committed, and the state at n_tokens. A partly filled last block (tail) is the last element when n_tokens is
// not a multiple of the block size. Blocks before first_block must be held locally (ProbePrefix said so); one that does
// not fit (sizes, n_tokens beyond the last token but one, local blocks evicted meanwhile) is not used: the sequence is
// computed instead and Started says why.
struct RestoredPrefix {
  int64_t n_tokens = 0;
  int64_t first_block = 0;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::byte> state;
};

// A share of the machine, not precedence: kDefault weighs 4 times kFlex, kPriority 4 times kDefault, and none starves.
enum class ServiceTier : uint8_t { kFlex, kDefault, kPriority };

// Answered by Failed at once: INVALID_ARGUMENT names the field and the limit (also for a request that could never fit
// the KV arena); RESOURCE_EXHAUSTED: the waiting queue is full; UNAVAILABLE: draining, or the engine has ended.
struct SequenceRequest {
  uint64_t id = 0;  // unique per worker process
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> committed;  // output tokens already delivered by an earlier run
  uint32_t max_tokens = 0;          // counts committed
  SamplingParams sampling;
  std::vector<uint32_t> stop_token_ids;
  std::string tenant;  // whose share of the engine this is taken from; fairness is between (tenant, tier)
  ServiceTier tier = ServiceTier::kDefault;
  std::string namespace_id;
  std::string namespace_salt;
  // Keys of leading full blocks of prompt + committed, as the engine's hasher names them, when the caller has computed
  // them already; the engine computes those that are missing.
  std::vector<PrefixKey> prefix_keys;
  bool return_logits = false;
  bool no_cache_read = false;
  std::unique_ptr<RestoredPrefix> restored;  // null: only the local cache is used
  std::string store_miss_reason;             // why restored is null or short; reported in Started
  std::shared_ptr<EventSink> sink;
};

}  // namespace longshelf::engine
