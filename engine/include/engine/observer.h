#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/cache_objects.h"
#include "engine/prefix_key.h"

namespace longshelf::engine {

struct Load {
  uint32_t n_running = 0;
  uint32_t n_waiting = 0;
  uint64_t n_tokens_queued = 0;
  uint32_t n_blocks_total = 0;
  uint32_t n_blocks_free = 0;
  uint64_t n_steps = 0;
  uint64_t n_preempted = 0;  // sequences moved out and back since the start
  bool draining = false;
};

// What the outside learns of the engine, on the engine thread; must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnLoad(const Load& load) = 0;
  virtual void OnCheckpointsChanged(std::vector<CachedCheckpoint> gained, std::vector<PrefixKey> lost) = 0;
  // New cache objects, behind the step that made them: for the KV store. Dropping them is allowed.
  virtual void OnCacheObjects(std::string_view namespace_id, std::vector<ParkedObject> objects) = 0;
};

}  // namespace longshelf::engine
