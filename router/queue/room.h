#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace longshelf::router::internal {

// What one worker has to do, of all routers as far as is known.
struct WorkerRoom {
  uint32_t n_slots = 1;          // sequences that run at once
  uint32_t n_streams = 0;        // running and waiting there
  uint32_t n_long = 0;           // of them, long prompts that are being read
  uint64_t n_tokens_ahead = 0;   // prompt tokens read before those of the stream in question are
  double tokens_per_second = 0;  // of prompts; 0: not known yet
  bool knows_blocks = false;
  uint64_t n_blocks_free = 0;
};

// What a stream wants of it.
struct Wanted {
  uint64_t n_tokens = 0;  // of its prompt, to be computed
  uint64_t n_blocks = 0;
  bool is_under_share = false;  // the worker makes room for it: see Backlog::IsUnderShare
};

// Streams beyond its slots that a worker is given, so that it never waits for the router.
uint32_t ExcessOf(uint32_t n_slots);
// Reading it takes longer than anybody should wait for his turn: who sends it knows that it takes long.
bool IsLong(uint64_t n_tokens, double tokens_per_second, absl::Duration wait_max);
// Whether the worker can begin it soon. Else it waits in the router, where it is still anybody's.
bool HasRoom(const WorkerRoom& room, const Wanted& wanted, absl::Duration wait_max);

}  // namespace longshelf::router::internal
