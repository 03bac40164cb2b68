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
inline constexpr uint64_t kOverlapTokens = 128;
inline constexpr uint64_t kSlotWaitTokens = 4096;
inline constexpr uint64_t kSuspectTokens = 4096;
uint64_t PickCost(const WorkerCandidate& candidate, uint64_t n_prompt_tokens);

// The cheapest usable worker; equal costs go to the one that was picked longest ago. Empty when none is usable.
std::optional<Pick> PickWorker(std::span<const WorkerCandidate> candidates, uint64_t n_prompt_tokens);

}  // namespace longshelf::router
