#include "room.h"

#include <algorithm>

namespace longshelf::router::internal {
namespace {

// Prompt tokens before a stream's own that a worker may have, as time.
constexpr double kAheadSeconds = 0.5;
// Of the slots, for whoever does not read a long prompt.
constexpr uint32_t kSlotsKeptFromLong = 4;  // one in four

}  // namespace

uint32_t ExcessOf(uint32_t n_slots) { return std::max<uint32_t>(1, n_slots / 8); }

bool IsLong(uint64_t n_tokens, double tokens_per_second, absl::Duration wait_max) {
  return tokens_per_second > 0 && static_cast<double>(n_tokens) > absl::ToDoubleSeconds(wait_max) * tokens_per_second;
}

bool HasRoom(const WorkerRoom& room, const Wanted& wanted, absl::Duration wait_max) {
  const uint32_t n_slots = std::max<uint32_t>(1, room.n_slots);
  if (room.n_streams == 0) return true;  // nothing to wait for: it says itself what it cannot do
  const uint32_t excess = ExcessOf(n_slots);
  // It is first in the worker's order as well, whatever is before it.
  if (wanted.is_under_share) return room.n_streams < n_slots + 2 * excess;
  if (room.n_streams >= n_slots + excess) return false;
  if (room.knows_blocks && wanted.n_blocks > room.n_blocks_free) return false;
  if (IsLong(wanted.n_tokens, room.tokens_per_second, wait_max)) {
    return n_slots < kSlotsKeptFromLong || room.n_long < n_slots - n_slots / kSlotsKeptFromLong;
  }
  return room.tokens_per_second == 0 ||
         static_cast<double>(room.n_tokens_ahead) <= kAheadSeconds * room.tokens_per_second;
}

}  // namespace longshelf::router::internal
