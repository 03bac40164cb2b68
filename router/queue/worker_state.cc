#include "worker_state.h"

#include <algorithm>

namespace longshelf::router::internal {

void WorkerState::OnUp(const WorkerInfo& new_info) {
  OnDown();
  info = new_info;
  ready = true;
  breaker = Breaker();
}

void WorkerState::OnDown() {
  ready = false;
  refuses = false;
  load = {};
  index.Clear();
  others_ = {};
  n_words_ = 0;
  n_blocks_sent = 0;
  n_tokens_of_others_ = 0;
  n_reading_of_others_ = 0;
}

void WorkerState::OnLoad(const WorkerLoad& new_load, absl::Time now) {
  if (new_load.n_steps != load.n_steps) last_step_at = now;
  load = new_load;
  refuses = false;
  n_blocks_sent = 0;
  const uint32_t n_there = load.n_running + load.n_waiting;
  others_[n_words_++ % others_.size()] = n_there - std::min(n_there, n_streams);
  n_tokens_of_others_ = load.n_tokens_queued - std::min(load.n_tokens_queued, n_tokens_queued);
  const auto n_reading = static_cast<uint32_t>(reading.size());
  n_reading_of_others_ = load.n_prefilling - std::min(load.n_prefilling, n_reading);
}

uint32_t WorkerState::n_streams_of_others() const {
  const size_t n = std::min(n_words_, others_.size());
  return n == 0 ? 0 : *std::min_element(others_.begin(), others_.begin() + static_cast<std::ptrdiff_t>(n));
}

WorkerRoom WorkerState::Room(uint64_t n_tokens, absl::Duration wait_max) const {
  WorkerRoom room;
  room.n_slots = n_slots();
  room.n_streams = n_streams_of_all();
  room.tokens_per_second = load.tokens_per_second;
  for (const Waiter* stream : reading) {
    room.n_tokens_ahead += std::min(stream->n_tokens_queued, n_tokens);
    room.n_long += IsLong(stream->n_tokens_queued, load.tokens_per_second, wait_max) ? 1 : 0;
  }
  room.n_tokens_ahead += std::min(n_tokens_of_others_, n_reading_of_others_ * n_tokens);
  room.knows_blocks = load.n_blocks_total > 0;
  room.n_blocks_free = load.n_blocks_free - std::min<uint64_t>(load.n_blocks_free, n_blocks_sent);
  return room;
}

}  // namespace longshelf::router::internal
