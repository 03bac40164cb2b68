#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/prefix_key.h"
#include "engine/request.h"
#include "kvstore/queries.h"

// What the RPC edge asks of whatever keeps prefixes outside the engine. The KV bridge implements it; a worker without a
// KV store has none.
namespace longshelf::worker {

struct RestoreRequest {
  std::vector<uint32_t> tokens;  // prompt and committed tokens
  std::string namespace_salt;
  std::vector<engine::PrefixKey> prefix_keys;  // as SequenceRequest's: those that are missing are computed
  // Set by the caller when the answer is no longer wanted.
  std::shared_ptr<const std::atomic<bool>> cancelled;
};

struct RestoreOutcome {
  std::shared_ptr<engine::PrefixFeed> feed;  // null: nothing is known beyond the local cache
  std::string miss_reason;                   // why it is null or short; empty when nothing is known to be missing
  int64_t n_shared = 0;                      // leading tokens whose blocks are there, with or without a checkpoint
};

struct ParkCommand {
  std::vector<uint32_t> tokens;
  std::string namespace_id;
  std::string namespace_salt;
  std::vector<engine::PrefixKey> prefix_keys;   // as SequenceRequest's: those that are missing are computed
  absl::Time retain_until;                      // wall clock
  kvstore::Ack ack = kvstore::Ack::kMemoryAll;  // what the answer waits for
  uint32_t n_replicas = 0;                      // stores that hold it; 0: as many as the source was told
  absl::Duration timeout = absl::Minutes(2);
};

struct ParkOutcome {
  int64_t n_tokens = 0;
  uint32_t n_objects = 0;
  uint64_t n_bytes = 0;
  engine::PrefixKey checkpoint_key{};
};

class PrefixSource {
 public:
  virtual ~PrefixSource() = default;
  // `done` is called exactly once, on a thread of the source or before Restore returns. Never fails: a store that is
  // down, slow or wrong gives an empty outcome with a reason. The feed fetches when the engine has admitted the
  // request.
  virtual void Restore(RestoreRequest request, std::function<void(RestoreOutcome)> done) = 0;
  // NOT_FOUND: the engine no longer holds the prefix. UNAVAILABLE: no store, it did not acknowledge everything, or this
  // worker has too much to do now.
  // RESOURCE_EXHAUSTED: the store has no room for the promise. `done` as above.
  virtual void Park(ParkCommand command, std::function<void(absl::StatusOr<ParkOutcome>)> done) = 0;
};

}  // namespace longshelf::worker
