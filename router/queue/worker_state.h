#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <set>

#include "absl/time/time.h"
#include "backlog.h"
#include "breaker.h"
#include "room.h"
#include "router/prefix_index.h"
#include "router/worker_link.h"

namespace longshelf::router::internal {

// A worker as the dispatcher sees it: what it said, and what was sent there since. Owner: the router loop.
struct WorkerState {
  std::unique_ptr<WorkerLink> link;
  bool ready = false;
  WorkerInfo info;
  WorkerLoad load;
  PrefixIndex index;
  uint32_t n_streams = 0;        // ours, running there
  uint64_t n_tokens_queued = 0;  // ours, sent there and not read yet
  std::set<Waiter*> reading;     // ours without a first token
  uint64_t n_blocks_sent = 0;    // that what was sent since its last word will take
  // It refused a stream, and has not said since that it can do more, nor ended one of ours.
  bool refuses = false;
  Breaker breaker;
  uint64_t last_pick = 0;
  absl::Time last_step_at = absl::InfinitePast();  // when it last reported another step
  uint64_t last_death = 0;                         // of a group of it; 0 = none

  // It came up: nothing is known of it but `new_info`.
  void OnUp(const WorkerInfo& new_info);
  void OnDown();
  void OnLoad(const WorkerLoad& new_load, absl::Time now);

  // Few until it says how many.
  uint32_t n_slots() const { return n_words_ == 0 ? kSlotsUntilItSays : std::max<uint32_t>(1, load.n_sequences_max); }
  // What other routers have there.
  uint32_t n_streams_of_others() const;
  uint32_t n_streams_of_all() const { return n_streams + n_streams_of_others(); }
  uint64_t n_tokens_of_all() const { return n_tokens_queued + n_tokens_of_others_; }
  // As a stream sees it that wants n_tokens computed.
  WorkerRoom Room(uint64_t n_tokens, absl::Duration wait_max) const;

 private:
  static constexpr uint32_t kSlotsUntilItSays = 4;
  // What is reported is a moment older than what we know of our own: the least of the last words counts.
  std::array<uint32_t, 3> others_{};
  size_t n_words_ = 0;
  uint64_t n_tokens_of_others_ = 0;
  uint32_t n_reading_of_others_ = 0;
};

}  // namespace longshelf::router::internal
