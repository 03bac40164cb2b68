#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace longshelf::router {

// One worker as seen when a prompt arrives.
struct WorkerCandidate {
  bool usable = false;           // connected, right model, not draining, not tried in vain for this request
  uint32_t n_usable_prefix = 0;  // prompt tokens it can skip
  uint64_t n_tokens_queued = 0;  // prompt tokens it was given and has not prefilled yet
  uint32_t n_streams = 0;        // running or waiting there
  uint32_t n_streams_max = 1;    // that run at once
  bool has_suspect = false;      // a stream that may be about to kill it, see suspicion.h
  bool has_room = true;          // it can begin the stream soon
  uint64_t affinity = 0;         // rendezvous rank of this worker for whoever asks; 0 for all: nobody said who he is
  uint64_t last_pick = 0;        // sequence number of the last pick; 0 = never
};

enum class PickReason : uint8_t {
  kCold,    // nobody has any of the prompt: least loaded
  kPrefix,  // the longest prefix also is the cheapest place
  kLoad,    // a longer prefix exists, but its worker has too much to do
};
std::string_view PickReasonName(PickReason reason);

struct Pick {
  size_t worker = 0;
  PickReason reason = PickReason::kCold;
};

// Estimated work, in prompt tokens, between a request's arrival at this worker and its last token:
//   tokens it must prefill            n_prompt - n_usable_prefix
// + tokens queued before it           n_tokens_queued
// + rows it shares its steps with     kOverlapTokens per stream
// + turns it waits for a slot         kSlotWaitTokens per stream beyond n_streams_max
// + the chance to go down with it     kSuspectTokens if it has a suspect
// A prefix therefore is worth exactly what it saves: the hottest worker loses a request as soon as the work before it
// costs more than computing the prefix again elsewhere, which then has the prefix too.
//
// Prefixes that are shorter than the longest one by less than an eighth of the prompt count as long as that: what many
// prompts begin with would otherwise send all of them to whoever had the first one.
inline constexpr uint64_t kOverlapTokens = 128;
inline constexpr uint64_t kSlotWaitTokens = 4096;
inline constexpr uint64_t kSuspectTokens = 4096;
uint64_t PickCost(const WorkerCandidate& candidate, uint64_t n_prompt_tokens,
                  uint64_t slot_wait_tokens = kSlotWaitTokens);

// For whom a worker is picked.
struct PickTerms {
  uint64_t n_prompt_tokens = 0;
  // A worker without room that is cheapest even so is worth waiting for: then none is picked.
  bool may_wait = false;
  uint64_t slot_wait_tokens = kSlotWaitTokens;
};
// The cheapest usable worker with room; equal costs go to the one of highest affinity, then to the one that was picked
// longest ago. Empty when there is none.
std::optional<Pick> PickWorker(std::span<const WorkerCandidate> candidates, const PickTerms& terms);
inline std::optional<Pick> PickWorker(std::span<const WorkerCandidate> candidates, uint64_t n_prompt_tokens) {
  return PickWorker(candidates, PickTerms{.n_prompt_tokens = n_prompt_tokens});
}

// What `worker` is to `affinity`: the same workers are in the same order for it on every router, and when one goes only
// what it had moves.
uint64_t AffinityRank(std::string_view affinity, std::string_view worker);

}  // namespace longshelf::router
