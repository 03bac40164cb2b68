#include "router/pick.h"

#include <algorithm>
#include <tuple>

namespace longshelf::router {
namespace {

constexpr uint64_t kPrefixesAlike = 8;  // an eighth of the prompt
constexpr uint64_t kFnvBasis = 0xcbf29ce484222325U;
constexpr uint64_t kFnvPrime = 0x100000001b3U;

}  // namespace

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

uint64_t PickCost(const WorkerCandidate& candidate, uint64_t n_prompt_tokens, uint64_t slot_wait_tokens) {
  const uint64_t n_miss = n_prompt_tokens - std::min<uint64_t>(candidate.n_usable_prefix, n_prompt_tokens);
  const uint64_t n_beyond_slots =
      candidate.n_streams >= candidate.n_streams_max ? candidate.n_streams - candidate.n_streams_max + 1 : 0;
  return n_miss + candidate.n_tokens_queued + candidate.n_streams * kOverlapTokens + n_beyond_slots * slot_wait_tokens +
         (candidate.has_suspect ? kSuspectTokens : 0);
}

std::optional<Pick> PickWorker(std::span<const WorkerCandidate> candidates, const PickTerms& terms) {
  uint32_t longest = 0;
  for (const WorkerCandidate& candidate : candidates) {
    if (candidate.usable) longest = std::max(longest, candidate.n_usable_prefix);
  }
  std::optional<size_t> best;
  std::optional<uint64_t> cheapest_without_room;
  // Cost, affinity turned around, last pick, number.
  std::tuple<uint64_t, uint64_t, uint64_t, size_t> best_order;
  for (size_t i = 0; i < candidates.size(); ++i) {
    WorkerCandidate candidate = candidates[i];
    if (!candidate.usable) continue;
    if ((longest - candidate.n_usable_prefix) * kPrefixesAlike < terms.n_prompt_tokens) {
      candidate.n_usable_prefix = longest;
    }
    const uint64_t cost = PickCost(candidate, terms.n_prompt_tokens, terms.slot_wait_tokens);
    if (!candidate.has_room) {
      cheapest_without_room = std::min(cost, cheapest_without_room.value_or(cost));
      continue;
    }
    const auto order = std::tuple(cost, ~candidate.affinity, candidate.last_pick, i);
    if (!best || order < best_order) {
      best = i;
      best_order = order;
    }
  }
  if (!best) return std::nullopt;
  if (terms.may_wait && cheapest_without_room && *cheapest_without_room < std::get<0>(best_order)) return std::nullopt;
  PickReason reason = PickReason::kCold;
  if (longest > 0) reason = candidates[*best].n_usable_prefix == longest ? PickReason::kPrefix : PickReason::kLoad;
  return Pick{*best, reason};
}

uint64_t AffinityRank(std::string_view affinity, std::string_view worker) {
  uint64_t hash = kFnvBasis;
  const auto add = [&hash](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * kFnvPrime;
  };
  add(affinity);
  add({"\0", 1});
  add(worker);
  // The last bytes of FNV-1a alone decide too much of its high bits.
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9U;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebU;
  return hash ^ (hash >> 31);
}

}  // namespace longshelf::router
