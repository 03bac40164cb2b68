#include "router/pick.h"

#include <algorithm>
#include <tuple>

namespace longshelf::router {

std::string_view PickReasonName(PickReason reason) {
  switch (reason) {
    case PickReason::kCold:
      return "cold";
    case PickReason::kPrefix:
      return "prefix";
    case PickReason::kLoad:
      return "load";
  }
  return "cold";
}

uint64_t PickCost(const WorkerCandidate& candidate, uint64_t n_prompt_tokens) {
  const uint64_t n_miss = n_prompt_tokens - std::min<uint64_t>(candidate.n_usable_prefix, n_prompt_tokens);
  const uint64_t n_beyond_slots =
      candidate.n_streams >= candidate.n_streams_max ? candidate.n_streams - candidate.n_streams_max + 1 : 0;
  return n_miss + candidate.n_tokens_queued + candidate.n_streams * kOverlapTokens + n_beyond_slots * kSlotWaitTokens +
         (candidate.has_suspect ? kSuspectTokens : 0);
}

std::optional<Pick> PickWorker(std::span<const WorkerCandidate> candidates, uint64_t n_prompt_tokens) {
  std::optional<size_t> best;
  std::tuple<uint64_t, uint64_t, size_t> best_order;
  uint32_t longest = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const WorkerCandidate& candidate = candidates[i];
    if (!candidate.usable) continue;
    longest = std::max(longest, candidate.n_usable_prefix);
    const auto order = std::tuple(PickCost(candidate, n_prompt_tokens), candidate.last_pick, i);
    if (!best || order < best_order) {
      best = i;
      best_order = order;
    }
  }
  if (!best) return std::nullopt;
  PickReason reason = PickReason::kCold;
  if (longest > 0) reason = candidates[*best].n_usable_prefix == longest ? PickReason::kPrefix : PickReason::kLoad;
  return Pick{*best, reason};
}

}  // namespace longshelf::router
