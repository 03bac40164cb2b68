#pragma once

#include <memory>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mailbox.h"
#include "engine/engine_config.h"
#include "engine/kv_copy.h"
#include "engine/messages.h"
#include "engine/observer.h"
#include "engine/prefix_key.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

// The one loop of a worker. Run() is the engine thread; everything else talks to it through `inbox`. `clock` only
// decides how large prefill chunks are (EngineConfig::step_time_budget) and whether guesses pay.
class Engine {
 public:
  Engine(const EngineConfig& config, StepRunner& runner, const PrefixHasher& hasher, const Clock& clock,
         Mailbox<EngineMessage>& inbox, EngineObserver& observer);
  ~Engine();

  // Until the inbox is closed and drained of messages (remaining sequences get kCancelled), or a step fails: then every
  // sequence gets Failed(UNAVAILABLE) and the status is returned.
  absl::Status Run();

  // Of the copies that the shards keep for this engine. Any thread.
  std::shared_ptr<KvCopyLedger> copies() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::engine
