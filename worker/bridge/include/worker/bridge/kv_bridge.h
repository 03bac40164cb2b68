#pragma once

#include <memory>
#include <vector>

#include "common/clock.h"
#include "common/mailbox.h"
#include "engine/kv_copy.h"
#include "engine/messages.h"
#include "engine/observer.h"
#include "kvstore/client.h"
#include "worker/bridge/options.h"
#include "worker/home_store/home_store.h"
#include "worker/metrics.h"
#include "worker/prefix_source.h"

namespace longshelf::worker {

// Between one engine and the KV store: the engine knows what the bytes mean, the store knows where they are. The way in
// (restores) and the way out (offloading, parking, healing) are state machines on one loop; nothing on it waits, and
// somebody turns it: a thread that calls Run(), or a test. A store that is down, slow, full or wrong costs a
// recomputation and is counted; it never fails or holds up a sequence.
class KvBridge final : public PrefixSource {
 public:
  // `store` is asked for what has no bytes, and `homes` (by shard) for what has; `copies` is the engine's. Everything
  // must outlive the bridge, the stores beyond their own last callbacks. The engine may still run while the bridge is
  // destroyed. REQUIRES: options.memory_bytes >= options.MemoryMin().
  KvBridge(const KvBridgeOptions& options, const Clock& clock, kvstore::Client& store, std::vector<HomeStore*> homes,
           std::shared_ptr<engine::KvCopyLedger> copies, Mailbox<engine::EngineMessage>& engine_inbox,
           WorkerMetrics& metrics);
  // REQUIRES: nobody runs it.
  ~KvBridge() override;
  KvBridge(const KvBridge&) = delete;
  KvBridge& operator=(const KvBridge&) = delete;

  // Turns the loop until Stop() has had its effect.
  void Run();
  // Any thread. Who waits for a restore or a park is answered, and so is who comes later.
  void Abandon();
  // Any thread. The same, and what is queued to be put is put (bounded by put_timeout when the store hangs); then the
  // loop ends.
  void Stop();
  // Instead of Run(): everything that can go on now.
  void RunReady();

  void Restore(RestoreRequest request, std::function<void(RestoreOutcome)> done) override;
  void Park(ParkCommand command, std::function<void(absl::StatusOr<ParkOutcome>)> done) override;

  // Engine thread. Takes the objects or drops them, at once.
  void Offload(const engine::CacheChain& chain, std::vector<engine::ParkedObject> objects);
  // Those at the end of blocks of the chain, in its order.
  void DropCheckpoints(const engine::CacheChain& chain, const std::vector<engine::PrefixKey>& keys);
  void SetPrefillSpeed(const engine::PrefillSpeed& speed);

  bool store_up() const;
  uint64_t n_bytes_used() const;  // of the memory it may have

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::worker
