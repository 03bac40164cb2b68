#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "engine/prefix_key.h"
#include "kvstore/object.h"

namespace longshelf::worker {

struct KvBridgeOptions {
  kvstore::Fingerprint fingerprint{};
  // The engine's. Null: KvPrefixHasher.
  std::shared_ptr<const engine::PrefixHasher> hasher;
  // Sizes that a stored object must have, from the engine's layout, with engine::kStampBytes. Anything else is refused
  // before it is allocated.
  uint64_t block_bytes = 0;                               // full blocks and tails
  std::function<uint64_t(int64_t n_tokens)> state_bytes;  // checkpoint at a position
  uint64_t state_bytes_max = 0;
  int64_t replay_tokens = 0;  // after which a state is rebuilt from blocks alone; 0: it cannot be

  uint32_t n_replicas = 1;  // stores that hold what is parked, unless its command says how many

  // Everything on its way between engine and store, in both directions. At least MemoryMin().
  uint64_t memory_bytes = uint64_t{256} << 20;

  absl::Duration lookup_timeout = absl::Seconds(1);
  // An answer is waited for so long even when computing would be faster: nobody notices, and the store has a chance to
  // show that it is well.
  absl::Duration shortest_wait = absl::Milliseconds(100);
  // How long a fetch may take as long as no prompt was measured; from then on what computing the prefix would take.
  absl::Duration fetch_timeout = absl::Seconds(2);
  absl::Duration fetch_timeout_per_block = absl::Milliseconds(15);
  absl::Duration put_timeout = absl::Seconds(20);
  // How often the chains of recent sessions are looked up, and what the store has lost is offered again.
  absl::Duration verify_interval = absl::Seconds(30);

  // A restore, and a park, must be able to hold a state, a tail and a block on its way; the way out has half.
  uint64_t MemoryMin() const { return 2 * (state_bytes_max + 3 * block_bytes); }
};

}  // namespace longshelf::worker
